// Processes: what runs and what ended a while ago, and the output of one as it is written.

import { call, lines } from "./api.js";
import { button, bytes, duration, fail, h, moment } from "./dom.js";

const EVERY = 2000;
const KEPT = 400_000; // characters of output that are shown
// CSI and OSC sequences, and other escapes (ECMA-48): colours are for the terminal.
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

export function view() {
  let chosen = null;
  let following = null;
  let timer = null;
  let listed = [];

  const command = h("input", {
    id: "command",
    type: "text",
    required: true,
    placeholder: "make test",
    autocomplete: "off",
    spellcheck: false,
  });
  const run = h(
    "form",
    { class: "run", onsubmit: start },
    h("label", { for: "command" }, "Run a command in the background"),
    h("div", { class: "line" }, command, h("button", { type: "submit", class: "primary" }, "Run")),
  );
  const list = h("ul", { class: "list", "aria-label": "Processes", onkeydown: move });
  const none = h("p", { class: "empty" }, "Nothing runs, and nothing ended lately.");
  const detail = h("div", { class: "detail", hidden: true });
  const element = h(
    "section",
    { class: "view wide processes", "aria-label": "Processes" },
    h("div", { class: "side" }, run, none, list),
    detail,
  );

  const title = h("h2", {});
  const facts = h("dl", { class: "facts" });
  const output = h("pre", { role: "log", tabIndex: 0, "aria-label": "Output" });
  const input = h("input", {
    id: "stdin",
    type: "text",
    autocomplete: "off",
    spellcheck: false,
    placeholder: "a line for its standard input",
  });
  const feed = h(
    "form",
    { class: "line feed", onsubmit: say },
    h("label", { for: "stdin", class: "hidden" }, "Standard input"),
    input,
    h("button", { type: "submit" }, "Send"),
    button(null, "End the input", () => act("stdin/close"), { text: "End input" }),
  );
  const stops = [
    button(null, "Interrupt", () => act("signal", { signal: "INT", tree: true }), {
      text: "Interrupt",
      title: "SIGINT, as Ctrl+C",
    }),
    button(null, "Terminate", () => act("kill", {}), {
      text: "Terminate",
      title: "SIGTERM, and SIGKILL after a grace, to all that it started",
    }),
    button(null, "Kill", () => act("kill", { grace_secs: 0 }), {
      text: "Kill",
      kind: "danger",
      title: "SIGKILL to all that it started",
    }),
  ];
  const back = button("close", "Close the process", () => choose(null));
  const head = h("div", { class: "head" }, title, back);
  detail.append(head, h("div", { class: "actions stops" }, stops), facts, output, feed);

  function row(process) {
    const made = h(
      "button",
      { type: "button", onclick: () => choose(process.pid), "aria-pressed": String(process.pid === chosen) },
      h("span", { class: "pid" }, String(process.pid)),
      h("code", {}, process.command),
      h("span", { class: `state ${process.running ? "on" : ""}` }, process.running ? "running" : "ended"),
    );
    made.dataset.pid = process.pid;
    return h("li", {}, made);
  }

  async function refresh() {
    const found = (await call("GET", "v1/processes")).sort(
      (one, other) => other.running - one.running || other.pid - one.pid,
    );
    const same = JSON.stringify(found) === JSON.stringify(listed);
    listed = found;
    if (!same) draw();
    if (chosen !== null) await describe();
  }

  function draw() {
    const held = document.activeElement?.dataset?.pid;
    list.replaceChildren(...listed.map(row));
    none.hidden = listed.length > 0;
    if (held) list.querySelector(`[data-pid="${held}"]`)?.focus();
  }

  async function describe() {
    const pid = chosen;
    const found = await call("GET", `v1/processes/${pid}`);
    if (pid !== chosen) return;
    title.textContent = found.command;
    const ended = found.ended_at ? Date.parse(found.ended_at) : Date.now();
    const rows = {
      Process: String(found.pid),
      State: found.running
        ? "running"
        : `${found.reason}${found.signal ? `, ${found.signal}` : ""}, exit code ${found.exit_code}`,
      Started: moment(Date.parse(found.started_at)),
      For: duration((ended - Date.parse(found.started_at)) / 1000),
      User: found.user,
      Directory: found.cwd,
      Output: `${bytes(found.stdout_bytes)}, errors ${bytes(found.stderr_bytes)}`,
    };
    facts.replaceChildren(
      ...Object.entries(rows).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
    for (const stop of stops) stop.disabled = !found.running;
    feed.hidden = !found.running;
  }

  function choose(pid) {
    following?.abort();
    const before = chosen;
    chosen = pid;
    detail.hidden = pid === null;
    element.classList.toggle("split", pid !== null);
    draw();
    if (pid === null) return list.querySelector(`[data-pid="${before}"]`)?.focus();
    output.replaceChildren();
    describe().catch(fail);
    follow(pid).catch(fail);
  }

  async function follow(pid) {
    following = new AbortController();
    const { signal } = following;
    let cursor = 0;
    let kept = 0;
    for (;;) {
      try {
        for await (const event of lines(`v1/processes/${pid}/stream`, { query: { cursor }, signal })) {
          cursor = event.cursor;
          if (event.type === "exit") return void (await refresh());
          const text =
            event.type === "gap"
              ? `\n[${bytes(event.bytes)} are no longer kept]\n`
              : event.data?.replace(ESCAPES, "").replaceAll("\r\n", "\n");
          if (text) kept = write(text, event.type, kept);
        }
      } catch (error) {
        if (!error.retryable) throw error;
      }
      // The daemon went away, or the way to it did: what it kept is asked for from the cursor on.
      await new Promise((resolve) => setTimeout(resolve, EVERY));
      if (signal.aborted) return;
    }
  }

  function write(text, kind, kept) {
    const below = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
    const last = output.lastChild;
    if (last?.dataset.kind === kind && last.textContent.length < 20_000) last.append(text);
    else {
      const piece = h("span", { class: kind }, text);
      piece.dataset.kind = kind;
      output.append(piece);
    }
    kept += text.length;
    while (kept > KEPT && output.childNodes.length > 1) {
      kept -= output.firstChild.textContent.length;
      output.firstChild.remove();
    }
    if (below) output.scrollTop = output.scrollHeight;
    return kept;
  }

  async function start(event) {
    event.preventDefault();
    try {
      const { pid } = await call("POST", "v1/exec", {
        json: { command: command.value, shell: true, background: true },
      });
      command.value = "";
      await refresh();
      choose(pid);
    } catch (error) {
      fail(error);
    }
  }

  async function say(event) {
    event.preventDefault();
    await act("stdin", { data: `${input.value}\n` });
    input.value = "";
  }

  async function act(what, json) {
    try {
      await call("POST", `v1/processes/${chosen}/${what}`, { json });
      await refresh();
    } catch (error) {
      fail(error);
    }
  }

  function move(event) {
    const at = event.target.closest("li");
    const next = { ArrowDown: at?.nextElementSibling, ArrowUp: at?.previousElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    next.querySelector("button").focus();
  }

  async function show() {
    clearInterval(timer);
    timer = setInterval(() => document.hidden || refresh().catch(() => {}), EVERY);
    await refresh();
  }

  return { element, show, hide: () => clearInterval(timer) };
}
