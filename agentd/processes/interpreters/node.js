// The JavaScript interpreter of a code context: Node's own REPL without a terminal, so that `const`, `await` at the top
// level, `require` and `import()` mean what they mean there. See `processes.packets` for what is said on the fds 3 and 4.
"use strict";
const fs = require("fs");
const net = require("net");
const repl = require("repl");
const util = require("util");
const { StringDecoder } = require("string_decoder");
const { Writable } = require("stream");

const [REQUESTS, EVENTS, PACKET] = [3, 4, 60000];

function output(kind, chunk, encoding) {
  const text = typeof chunk === "string" ? Buffer.from(chunk, encoding)
    : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  for (let start = 0; start < text.length; start += PACKET)
    fs.writeSync(EVENTS, Buffer.concat([Buffer.from(kind), text.subarray(start, start + PACKET)]));
}

function send(message) {
  const text = Buffer.from(JSON.stringify(message));
  for (let start = 0; start < text.length; start += PACKET) {
    const last = start + PACKET >= text.length;
    const kind = start ? (last ? "M" : "C") : last ? "S" : "B";
    fs.writeSync(EVENTS, Buffer.concat([Buffer.from(kind), text.subarray(start, start + PACKET)]));
  }
}

for (const [kind, stream] of [["o", process.stdout], ["e", process.stderr]]) {
  stream.write = (chunk, encoding, done) => {
    if (typeof encoding === "function") [encoding, done] = [undefined, encoding];
    output(kind, chunk, encoding);
    if (done) process.nextTick(done);
    return true;
  };
}

// What the REPL itself says: exceptions that no code waits for.
const said = new Writable({ write(chunk, encoding, done) { output("e", chunk, encoding); done(); } });
const nothing = new net.Socket();
const server = repl.start({ prompt: "", input: nothing, output: said, terminal: false, useGlobal: true,
  useColors: false, breakEvalOnSigint: true, ignoreUndefined: true });
server.removeAllListeners("exit");
const interrupt = () => server.emit("SIGINT");
process.on("SIGINT", interrupt);

function cleaned(error) {
  const lines = String(error.stack || error).split("\n");
  const own = lines.findIndex((line) => /^\s+at .*(node:|REPLServer)/.test(line));
  return (own < 0 ? lines : lines.slice(0, own)).join("\n");
}

function tell(error) {
  if (error instanceof repl.Recoverable) error = error.err;
  if (error === null || typeof error !== "object" || error.stack === undefined)
    send({ type: "error", name: "Error", value: util.inspect(error), traceback: `Uncaught ${util.inspect(error)}` });
  else
    send({ type: "error", name: String(error.name), value: String(error.message), traceback: cleaned(error) });
}

function execute(request) {
  const before = {};
  for (const [name, value] of Object.entries(request.envs)) {
    before[name] = process.env[name];
    process.env[name] = value;
  }
  let over = false;
  const finish = (error, value) => {
    if (over) return;
    over = true;
    for (const [name, value] of Object.entries(before))
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    try {
      if (error !== null && error !== undefined) tell(error);
      else if (value !== undefined) send({ type: "result", is_main_result: true, text: util.inspect(value) });
    } catch (failure) {
      tell(failure);
    }
    send({ type: "done", token: request.token });
  };
  // An exception within a promise's or a timer's callback has no other way back.
  server._domain.removeAllListeners("error");
  server._domain.on("error", (error) => (over ? output("e", `Uncaught ${cleaned(error)}\n`) : finish(error)));
  // While code runs the REPL itself looks after the signal, as long as nobody listens; while it waits, we do.
  process.off("SIGINT", interrupt);
  try {
    server.eval(`${request.code}\n`, server.context, `<cell ${request.number}>`, finish);
  } finally {
    process.on("SIGINT", interrupt);
  }
}

const decoder = new StringDecoder("utf8");
let pending = "";
const requests = new net.Socket({ fd: REQUESTS, readable: true, writable: false });
requests.on("data", (chunk) => {
  pending += decoder.write(chunk);
  for (let end; (end = pending.indexOf("\n")) >= 0; ) {
    const line = pending.slice(0, end);
    pending = pending.slice(end + 1);
    execute(JSON.parse(line));
  }
});
requests.on("end", () => process.exit(0));
send({ type: "ready" });
