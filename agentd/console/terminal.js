// Terminals: a tab for each. They are the daemon's and outlive this page; a lost connection is taken up again.

import { call, socket } from "./api.js";
import { ask, button, fail, h } from "./dom.js";
import "./strict.js";
import { FitAddon } from "./xterm-fit.js";
import { Terminal } from "./xterm.js";

const LEAVE = "Shift+F6";
const RETRY = [500, 1000, 2000, 4000, 5000];
// Bytes that the screen has not drawn yet: at most, before the daemon is left to wait, and when it may go on.
const MOST = 4 * 2 ** 20;
const FEW = 2 ** 18;
const dark = matchMedia("(prefers-color-scheme: dark)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(`--term-${name}`).trim();
  const names = [
    "background",
    "foreground",
    "cursor",
    "black",
    "red",
    "green",
    "yellow",
    "blue",
    "magenta",
    "cyan",
    "white",
  ];
  const found = Object.fromEntries(names.map((name) => [name, named(name)]));
  for (const name of names.slice(3))
    found[`bright${name[0].toUpperCase()}${name.slice(1)}`] = named(`bright-${name}`) || found[name];
  return { ...found, selectionBackground: named("selection"), cursorAccent: found.background };
}

function decoded(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// One terminal: its screen, and the socket to it. changed(): its name or state is another.
class Screen {
  constructor(session, leave, changed) {
    Object.assign(this, { session, changed });
    this.cursor = 0;
    this.undrawn = 0;
    this.typed = [];
    this.state = "connecting";
    this.tries = 0;
    this.term = new Terminal({
      theme: colours(),
      minimumContrastRatio: 4.5,
      fontFamily: "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace",
      fontSize: 13.5,
      lineHeight: 1.2,
      cursorBlink: true,
      scrollback: 10_000,
      // A program in the sandbox names the address: nothing is opened at its word.
      linkHandler: { activate: () => {} },
    });
    this.fit = new FitAddon();
    this.term.loadAddon(this.fit);
    this.element = h("div", { class: "screen", role: "tabpanel", "aria-label": "Terminal" });
    this.term.attachCustomKeyEventHandler((event) => {
      if (event.key === "F6" && event.shiftKey) {
        if (event.type === "keydown") leave();
        return false;
      }
      if (event.ctrlKey && event.shiftKey && event.code === "KeyC" && this.term.hasSelection()) {
        if (event.type === "keydown") navigator.clipboard?.writeText(this.term.getSelection());
        event.preventDefault();
        return false;
      }
      return true;
    });
    this.term.onData((data) => this.say({ type: "pty_input", data }));
    this.term.onBinary((data) => this.say({ type: "pty_input", data_base64: btoa(data) }));
    this.term.onResize(({ cols, rows }) => this.say({ type: "pty_resize", cols, rows }));
    this.watcher = new ResizeObserver(() => this.element.isConnected && this.fit.fit());
  }

  get name() {
    return this.session ? `Terminal ${this.session.pid}` : "Terminal";
  }

  show(place) {
    place.replaceChildren(this.element);
    if (!this.term.element) {
      this.term.open(this.element);
      this.watcher.observe(this.element);
      this.fit.fit();
      this.connect();
    }
    this.fit.fit();
  }

  say(frame) {
    if (this.state === "open" && this.line.readyState === WebSocket.OPEN) this.line.send(JSON.stringify(frame));
    else if (this.state !== "over" && frame.type === "pty_input") this.typed.push(frame);
  }

  become(state) {
    this.state = state;
    this.changed();
  }

  async connect() {
    this.become("connecting");
    try {
      this.line = await socket("pty");
    } catch (error) {
      return this.lost(error);
    }
    if (this.state === "over") return this.line.close();
    const { cols, rows } = this.term;
    this.line.onopen = () => {
      const first = this.session
        ? { type: "pty_connect", id: "1", session_id: this.session.session_id, cursor: this.cursor }
        : { type: "pty_start", id: "1", cols, rows, envs: { TERM: "xterm-256color", COLORTERM: "truecolor" } };
      this.line.send(JSON.stringify(first));
    };
    this.line.onmessage = (event) => this.take(JSON.parse(event.data));
    this.line.onclose = () => this.lost();
  }

  take(frame) {
    if (frame.type === "pty_started") {
      this.tries = 0;
      this.session = frame;
      this.become("open");
      this.say({ type: "pty_resize", cols: this.term.cols, rows: this.term.rows });
      this.typed.splice(0).forEach((typed) => this.say(typed));
    } else if (frame.type === "pty_output") {
      if (frame.skipped) this.term.write(`\r\n[${frame.skipped} bytes are no longer kept]\r\n`);
      this.cursor = frame.cursor;
      this.draw(decoded(frame.data_base64));
    } else if (frame.type === "pty_exited") {
      this.over(`the shell ended with ${frame.exit_code}`);
    } else if (frame.type === "error") {
      this.state === "open" ? fail(new Error(frame.message)) : this.over(frame.message);
    }
  }

  // A page cannot slow a socket down. So one that brings more than can be drawn is closed, and the output is taken up
  // where it was left; the daemon tells what it could not keep.
  draw(content) {
    this.undrawn += content.length;
    this.term.write(content, () => {
      this.undrawn -= content.length;
      if (!this.held || this.undrawn > FEW) return;
      this.held = false;
      if (this.state !== "over") this.connect();
    });
    if (this.undrawn < MOST || this.held) return;
    this.held = true;
    this.line.onmessage = this.line.onclose = null;
    this.line.close();
    this.become("connecting");
  }

  over(why) {
    this.become("over");
    this.term.write(`\r\n\x1b[2m[${why}]\x1b[0m\r\n`);
    this.term.options.cursorBlink = false;
    this.line?.close();
  }

  lost(error) {
    if (this.state === "over") return;
    if (error && !error.retryable) return this.over(error.message);
    if (this.state === "open") this.term.write("\r\n\x1b[2m[the connection was lost; trying again]\x1b[0m\r\n");
    this.become("lost");
    this.timer = setTimeout(() => this.connect(), RETRY[Math.min(this.tries, RETRY.length - 1)]);
    this.tries += 1;
  }

  dispose() {
    this.state = "over";
    clearTimeout(this.timer);
    this.watcher.disconnect();
    this.line?.close();
    this.term.dispose();
  }
}

export function view() {
  let screens = [];
  let current = null;
  let begun = false;

  const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Terminals", onkeydown: walk });
  const place = h("div", { class: "place" });
  const add = button("add", "New terminal", () => open(null), { text: "New terminal" });
  const end = button("close", "End this terminal", finish, { text: "End" });
  const hint = h("p", { class: "hint" }, h("kbd", {}, LEAVE), " leaves the terminal");
  const element = h(
    "section",
    { class: "view wide", "aria-label": "Terminal" },
    h("div", { class: "bar" }, tabs, h("div", { class: "tools" }, hint, end, add)),
    place,
  );

  function draw() {
    const held = tabs.contains(document.activeElement);
    tabs.replaceChildren(
      ...screens.map((screen) => {
        const chosen = screen === current;
        const made = h(
          "button",
          {
            type: "button",
            role: "tab",
            "aria-selected": String(chosen),
            tabIndex: chosen ? 0 : -1,
            onclick: () => choose(screen, true),
          },
          screen.name,
        );
        made.dataset.state = screen.state;
        made.title = { connecting: "connecting", open: "open", lost: "the connection is lost", over: "ended" }[
          screen.state
        ];
        return made;
      }),
    );
    if (held) tabs.querySelector("[aria-selected=true]")?.focus();
    end.disabled = !current;
  }

  function choose(screen, focus) {
    current = screen;
    draw();
    if (!screen) return place.replaceChildren(h("p", { class: "empty" }, "No terminal is open."));
    screen.show(place);
    if (focus) screen.term.focus();
  }

  function open(session, focus = true) {
    const leave = () => (tabs.querySelector("[aria-selected=true]") ?? add).focus();
    const screen = new Screen(session, leave, draw);
    screens.push(screen);
    choose(screen, focus);
  }

  async function finish() {
    const screen = current;
    if (screen.state === "open") {
      const sure = await ask({
        title: "End this terminal?",
        text: "What runs in it ends too.",
        confirm: "End",
        danger: true,
      });
      if (sure === null) return;
      await call("DELETE", `v1/pty/${screen.session.session_id}`).catch(fail);
    }
    screen.dispose();
    screens = screens.filter((one) => one !== screen);
    choose(screens.at(-1) ?? null, false);
    (tabs.querySelector("[aria-selected=true]") ?? add).focus();
  }

  function walk(event) {
    const at = screens.indexOf(current);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: screens.length - 1 }[event.key];
    if (next === undefined || !screens.length) return;
    event.preventDefault();
    choose(screens[(next + screens.length) % screens.length], false);
    tabs.querySelector("[aria-selected=true]").focus();
  }

  dark.addEventListener("change", () => screens.forEach((screen) => (screen.term.options.theme = colours())));

  async function show() {
    if (begun) return current && current.show(place);
    begun = true;
    // Those that an earlier page left open come first.
    const found = await call("GET", "v1/pty");
    for (const session of found) open(session, false);
    if (found.length) choose(screens.at(-1), true);
    else open(null);
  }

  return { element, show };
}
