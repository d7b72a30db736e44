// The launcher of linux/launcher.py for aarch64: a whole ELF file, no libc, no data, nothing but system calls.
//
//   as -o launcher.o launcher_aarch64.s && objcopy -O binary -j .text launcher.o launcher
//
// argv: a name, the number of the control socket, PATHS paths, the program's argv. environment: the program's.
// Orders on the socket, all int32: PATHS, uid, gid, count of groups (-1 each: as they are), 0, the groups.
// Report on it, both int32: minus errno, step (1 ids, 2 directory, 3 program).
// Kept over all calls: x19 the stack as it was found, w20 the socket, w21 the step; x22 the next path, x23 argv and
// x24 environment of the program, w25 what is to be reported.

        .text
file:   .ascii  "\177ELF\2\1\1"                 // elf(5): 64 bits, little endian
        .zero   9
        .short  2, 183                          // ET_EXEC, EM_AARCH64
        .long   1
        .quad   0x400000 + start - file
        .quad   segments - file
        .quad   0
        .long   0
        .short  64, 56, 2, 0, 0, 0
segments:
        .long   1, 5                            // PT_LOAD of the whole file, read and execute
        .quad   0, 0x400000, 0x400000
        .quad   end - file, end - file
        .quad   65536                           // the largest page there is
        .long   0x6474e551, 6                   // PT_GNU_STACK: not executable
        .quad   0, 0, 0, 0, 0, 16

start:  mov     x19, sp
        ldr     x1, [x19, 16]                   // argv[1], a decimal number
        mov     w20, 0
        mov     w9, 10
digit:  ldrb    w0, [x1], 1
        subs    w0, w0, '0'
        b.mi    0f                              // its NUL
        madd    w20, w20, w9, w0
        b       digit

0:      mov     w0, w20                         // fcntl(socket, F_SETFD, FD_CLOEXEC)
        mov     x1, 2
        mov     x2, 1
        mov     x8, 25
        svc     0
        sub     sp, sp, 4096                    // read(socket, orders, 4096): here it waits
        mov     w0, w20
        mov     x1, sp
        mov     x2, 4096
        mov     x8, 63
        svc     0
        cmp     w0, 0
        b.le    leave                           // the daemon wants it no more, or is gone

        mov     w21, 1
        ldr     w0, [sp, 12]                    // setgroups(count, groups)
        tbnz    w0, 31, 1f
        add     x1, sp, 20
        mov     x8, 159
        svc     0
        tbnz    w0, 31, refuse
1:      ldr     w0, [sp, 8]                     // setresgid(gid, gid, gid)
        mov     w1, w0
        mov     w2, w0
        mov     x8, 149
        svc     0
        tbnz    w0, 31, refuse
        ldr     w0, [sp, 4]                     // setresuid(uid, uid, uid)
        mov     w1, w0
        mov     w2, w0
        mov     x8, 147
        svc     0
        tbnz    w0, 31, refuse

        mov     w21, 2
        adr     x0, dot                         // chdir("."): whether the user may be where it is
        mov     x8, 49
        svc     0
        tbnz    w0, 31, refuse

        mov     w21, 3
        ldr     w9, [sp]
        add     x22, x19, 24
        add     x23, x22, x9, lsl 3
        ldr     x9, [x19]                       // argc
        add     x24, x19, x9, lsl 3
        add     x24, x24, 16
        mov     w25, -2                         // ENOENT, where there are no paths
next:   cmp     x22, x23
        b.eq    none
        ldr     x0, [x22], 8                    // execve(path, argv, environment)
        mov     x1, x23
        mov     x2, x24
        mov     x8, 221
        svc     0
        cmn     w25, 13                         // one that is there and may not be executed tells more than the others
        csel    w25, w25, w0, eq
        cmn     w0, 2                           // ENOENT
        b.eq    next
        cmn     w0, 13                          // EACCES
        b.eq    next
        cmn     w0, 20                          // ENOTDIR
        b.eq    next
        cmn     w0, 36                          // ENAMETOOLONG
        b.eq    next
        cmn     w0, 40                          // ELOOP
        b.eq    next
        mov     w25, w0
none:   mov     w0, w25

refuse: stp     w0, w21, [sp, -16]!             // write(socket, report, 8)
        mov     w0, w20
        mov     x1, sp
        mov     x2, 8
        mov     x8, 64
        svc     0
leave:  mov     w0, 127                         // exit_group(127)
        mov     x8, 94
        svc     0
dot:    .asciz  "."
        .balign 4
end:
