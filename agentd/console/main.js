// The page: asks for the token where one is needed, and shows one view at a time.

import { access, address, call, root, send, Unreachable, useToken } from "./api.js";
import { button, fail, h, icon, toast } from "./dom.js";
import { showUploads } from "./panel.js";
import { Uploads } from "./sending.js";

// By name, which is its module's too: what a view is called, and where it is below the daemon's root.
const VIEWS = {
  files: ["Files", "console#files"],
  terminal: ["Terminal", "console#terminal"],
  processes: ["Processes", "console#processes"],
  status: ["Status", "console#status"],
  docs: ["API", "docs"],
};

const main = document.getElementById("main");
const made = {};
let missed = 0;
let shown = null;
let opened = false;
let offered = Object.keys(VIEWS);

const uploads = new Uploads(
  () => panel.changed(),
  (upload) => {
    made.files?.then((files) => files.uploaded(upload));
    const { active, done } = uploads.totals;
    if (!active) toast(done === 1 ? `${upload.name} is at ${upload.target}` : `${done} uploads are done`, "good");
  },
);
const panel = showUploads(document.getElementById("uploads"), uploads);

const app = { uploads, go };

function named() {
  if (location.pathname.endsWith("/docs")) return ["docs", decodeURIComponent(location.hash.slice(1))];
  const [, name, rest] = location.hash.match(/^#([a-z]*)(.*)$/s) ?? [null, "files", ""];
  return offered.includes(name) ? [name, rest] : [offered[0], ""];
}

// The module of a view is loaded when it is first wanted: that of terminals is large. One that could not be had is asked
// for under another address the next time: some browsers keep the failure of the first.
function load(name) {
  const again = missed ? `?${missed}` : "";
  const loaded = import(`./${name}.js${again}`).catch(() => {
    missed += 1;
    delete made[name];
    throw new Unreachable();
  });
  return loaded.then((module) => module.view(app));
}

// Shows what the address says.
async function follow() {
  if (!opened) return;
  const [name, rest] = named();
  for (const link of document.querySelectorAll("#views a"))
    link.dataset.view === name ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  document.title = `${VIEWS[name][0]} · agentd`;
  try {
    made[name] ??= load(name);
    const view = await made[name];
    if (!opened || named()[0] !== name) return;
    if (shown !== view) {
      shown?.hide?.();
      shown = view;
      main.replaceChildren(view.element);
      scrollTo(0, 0);
    }
    await view.show(rest);
  } catch (error) {
    fail(error);
  }
}

function go(place, state = null) {
  const url = new URL(place, root);
  if (url.href !== location.href) history.pushState(state, "", url);
  follow();
}

function navigation() {
  const links = offered.map((name) => {
    const [title, place] = VIEWS[name];
    const onclick = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      go(place);
    };
    const link = h("a", { href: String(new URL(place, root)), onclick }, icon(name), h("span", {}, title));
    link.dataset.view = name;
    return link;
  });
  document.getElementById("views").replaceChildren(...links);
}

async function about(asked) {
  const { version } = await call("GET", "version");
  const forget =
    asked && button(null, "Forget the token", () => location.reload(), { text: "Forget the token", kind: "quiet" });
  document
    .getElementById("about")
    .replaceChildren(
      h("p", {}, h("strong", { title: root.host }, root.host), h("span", {}, `agentd ${version}`)),
      ...(forget ? [forget] : []),
    );
}

// What keeps the daemon from answering, as a sentence for whoever typed the token; "" where nothing does.
async function obstacle(token) {
  useToken(token);
  let answer;
  try {
    answer = await send("GET", String(new URL("version", root)));
  } catch (error) {
    return error.message;
  }
  if (answer.ok) return "";
  if (answer.status === 401) return "The daemon does not know this token. Look whether all of it was copied.";
  if (answer.status === 429) return "Too many wrong tokens. Wait a few seconds, then try again.";
  return `The daemon answered with ${answer.status}.`;
}

function gate(why = "") {
  opened = false;
  shown?.hide?.();
  shown = null;
  document.body.classList.add("closed");
  const problem = h("p", { id: "problem", class: "problem", role: "alert" }, why);
  const field = h("input", {
    ...{ id: "token", type: "password", required: true, autocomplete: "off", spellcheck: false },
    "aria-describedby": "problem hint",
  });
  const open = h("button", { type: "submit", class: "primary" }, "Open");
  const form = h(
    "form",
    { class: "gate" },
    h("img", { src: String(new URL("console/icon.svg", root)), width: 48, height: 48, alt: "" }),
    h("h1", {}, "agentd"),
    h("p", { class: "muted" }, root.host),
    h("label", { for: "token" }, "Access token"),
    field,
    problem,
    open,
    h(
      "p",
      { id: "hint", class: "hint" },
      "The daemon says at its start in which file the token is. It is kept in this page's memory only, so it is asked for again after a reload.",
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    open.disabled = true;
    const found = await obstacle(field.value.trim());
    open.disabled = false;
    problem.textContent = found;
    field.setAttribute("aria-invalid", String(Boolean(found)));
    if (found) field.select();
    else await enter(true);
  });
  main.replaceChildren(form);
  field.focus();
}

async function enter(asked) {
  // A daemon may serve other APIs alone: then there is only their description to show.
  const native = await send("GET", address("v1/processes"));
  if (native.status === 404) offered = ["docs"];
  opened = true;
  document.body.classList.remove("closed");
  navigation();
  follow();
  document.querySelector("#views a[aria-current]")?.focus({ preventScroll: true });
  await about(asked).catch(fail);
}

access.addEventListener("denied", () => {
  if (opened) gate("The daemon no longer takes the token of this page.");
});
addEventListener("popstate", follow);
addEventListener("beforeunload", (event) => {
  if (uploads.totals.active) event.preventDefault();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

const refusal = await obstacle(null);
if (refusal) gate(refusal.startsWith("The daemon does not know") ? "" : refusal);
else await enter(false);
