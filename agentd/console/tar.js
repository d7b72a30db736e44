// A folder as a tar archive (pax, POSIX.1-2001) that is never in memory: a Blob of headers and the files themselves.
// The same folder gives the same bytes, so an upload can go on after this page was closed.

const BLOCK = 512;
const encoder = new TextEncoder();

function header(name, size, type, mode) {
  const block = new Uint8Array(BLOCK);
  const write = (text, at) => block.set(encoder.encode(text), at);
  const octal = (number, digits) => number.toString(8).padStart(digits, "0");
  write(name, 0);
  write(`${octal(mode, 7)}\0${octal(0, 7)}\0${octal(0, 7)}\0`, 100);
  write(`${octal(size, 11)}\0${octal(0, 11)}\0${" ".repeat(8)}${type}`, 124);
  write("ustar\x0000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  write(`${octal(sum, 6)}\0 `, 148);
  return block;
}

function padding(size) {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}

// "LENGTH KEY=VALUE\n", where LENGTH counts its own digits.
function record(key, value) {
  const rest = encoder.encode(` ${key}=${value}\n`);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length} ${key}=${value}\n`;
}

function member(path, size, type, mode) {
  const long = encoder.encode(path).length > 100 || /[^\x20-\x7e]/.test(path);
  const large = size >= 8 ** 11;
  if (!long && !large) return [header(path, size, type, mode)];
  const records = encoder.encode((long ? record("path", path) : "") + (large ? record("size", size) : ""));
  const short = long ? "long-name" : path;
  return [
    ...[header("pax", records.length, "x", 0o644), records, padding(records.length)],
    header(short, large ? 0 : size, type, mode),
  ];
}

// entries: {path, file}, relative to the folder; file is null for an empty directory. blob: the archive. ends: by
// entry that is a file, in order, the offset in the archive at which its content ends.
export function archive(entries) {
  const sorted = [...entries].sort((one, other) => (one.path < other.path ? -1 : 1));
  const pieces = [];
  const ends = [];
  let offset = 0;
  const add = (piece) => {
    pieces.push(piece);
    offset += piece.size ?? piece.length;
  };
  for (const { path, file } of sorted) {
    member(file ? path : `${path}/`, file?.size ?? 0, file ? "0" : "5", file ? 0o644 : 0o755).forEach(add);
    if (!file) continue;
    add(file);
    ends.push({ path, end: offset });
    add(padding(file.size));
  }
  add(new Uint8Array(2 * BLOCK));
  return { blob: new Blob(pieces), ends };
}
