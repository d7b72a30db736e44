# The launcher of linux/launcher.py for x86_64: a whole ELF file, no libc, no data, nothing but system calls.
#
#   as -o launcher.o launcher_x86_64.s && objcopy -O binary -j .text launcher.o launcher
#
# argv: a name, the number of the control socket, PATHS paths, the program's argv. environment: the program's.
# Orders on the socket, all int32: PATHS, uid, gid, count of groups (-1 each: as they are), 0, the groups.
# Report on it, both int32: minus errno, step (1 ids, 2 directory, 3 program).
# Kept over all calls: rbx the stack as it was found, ebp the socket, r15d the step; r12 the next path, r13 argv and
# r14 environment of the program.

        .text
file:   .ascii  "\177ELF\2\1\1"                 # elf(5): 64 bits, little endian
        .zero   9
        .short  2, 62                           # ET_EXEC, EM_X86_64
        .long   1
        .quad   0x400000 + start - file
        .quad   segments - file
        .quad   0
        .long   0
        .short  64, 56, 2, 0, 0, 0
segments:
        .long   1, 5                            # PT_LOAD of the whole file, read and execute
        .quad   0, 0x400000, 0x400000
        .quad   end - file, end - file
        .quad   4096
        .long   0x6474e551, 6                   # PT_GNU_STACK: not executable
        .quad   0, 0, 0, 0, 0, 16

start:  mov     %rsp, %rbx
        mov     16(%rbx), %rsi                  # argv[1], a decimal number
        xor     %ebp, %ebp
digit:  movzbl  (%rsi), %eax
        inc     %rsi
        sub     $'0', %eax
        js      0f                              # its NUL
        imul    $10, %ebp
        add     %eax, %ebp
        jmp     digit

0:      mov     %ebp, %edi                      # fcntl(socket, F_SETFD, FD_CLOEXEC)
        mov     $2, %esi
        mov     $1, %edx
        mov     $72, %eax
        syscall
        sub     $4096, %rsp                     # read(socket, orders, 4096): here it waits
        mov     %ebp, %edi
        mov     %rsp, %rsi
        mov     $4096, %edx
        xor     %eax, %eax
        syscall
        test    %eax, %eax
        jle     leave                           # the daemon wants it no more, or is gone

        mov     $1, %r15d
        mov     12(%rsp), %edi                  # setgroups(count, groups)
        test    %edi, %edi
        js      1f
        lea     20(%rsp), %rsi
        mov     $116, %eax
        syscall
        test    %eax, %eax
        js      refuse
1:      mov     8(%rsp), %edi                   # setresgid(gid, gid, gid)
        mov     %edi, %esi
        mov     %edi, %edx
        mov     $119, %eax
        syscall
        test    %eax, %eax
        js      refuse
        mov     4(%rsp), %edi                   # setresuid(uid, uid, uid)
        mov     %edi, %esi
        mov     %edi, %edx
        mov     $117, %eax
        syscall
        test    %eax, %eax
        js      refuse

        mov     $2, %r15d
        lea     dot(%rip), %rdi                 # chdir("."): whether the user may be where it is
        mov     $80, %eax
        syscall
        test    %eax, %eax
        js      refuse

        mov     $3, %r15d
        mov     (%rsp), %eax
        lea     24(%rbx), %r12
        lea     (%r12,%rax,8), %r13
        mov     (%rbx), %rax                    # argc
        lea     16(%rbx,%rax,8), %r14
        mov     $-2, %ebx                       # ENOENT, where there are no paths
next:   cmp     %r13, %r12
        je      none
        mov     (%r12), %rdi                    # execve(path, argv, environment)
        add     $8, %r12
        mov     %r13, %rsi
        mov     %r14, %rdx
        mov     $59, %eax
        syscall
        cmp     $-13, %ebx                      # one that is there and may not be executed tells more than the others
        cmovne  %eax, %ebx
        cmp     $-2, %eax                       # ENOENT
        je      next
        cmp     $-13, %eax                      # EACCES
        je      next
        cmp     $-20, %eax                      # ENOTDIR
        je      next
        cmp     $-36, %eax                      # ENAMETOOLONG
        je      next
        cmp     $-40, %eax                      # ELOOP
        je      next
        mov     %eax, %ebx
none:   mov     %ebx, %eax

refuse: push    %rax                            # write(socket, report, 8)
        mov     %r15d, 4(%rsp)
        mov     %ebp, %edi
        mov     %rsp, %rsi
        mov     $8, %edx
        mov     $1, %eax
        syscall
leave:  mov     $127, %edi                      # exit_group(127)
        mov     $231, %eax
        syscall
dot:    .asciz  "."
        .balign 4
end:
