// Files: a directory, page by page, and what can be done with what is in it.

import { call, download, quote, request } from "./api.js";
import { ask, button, bytes, count, fail, h, icon, moment, toast } from "./dom.js";
import { chosen, dropped } from "./drop.js";
import { preview } from "./preview.js";

const PAGE = 200;
const HOME = "/workspace";
const SORTS = { name: "Name", size: "Size", modified: "Modified" };

export function join(directory, name) {
  return directory.endsWith("/") ? directory + name : `${directory}/${name}`;
}

export function place(path) {
  return `console#files${path.split("/").map(quote).join("/")}`;
}

export function view(app) {
  const state = { path: HOME, sort: "name", cursor: null, entries: [], asked: null };

  const crumbs = h("nav", { class: "crumbs", "aria-label": "Path" });
  const conflict = h(
    "select",
    { id: "conflict" },
    h("option", { value: "merge" }, "overwrite, merge folders"),
    h("option", { value: "replace" }, "replace, whole folders too"),
    h("option", { value: "error" }, "refuse"),
  );
  const pick = h("input", { type: "file", multiple: true, hidden: true, id: "pick-files" });
  const pickFolder = h("input", { type: "file", webkitdirectory: true, hidden: true, id: "pick-folder" });
  for (const input of [pick, pickFolder])
    input.addEventListener("change", () => {
      begin(chosen(input.files));
      input.value = "";
    });
  const tools = h(
    "div",
    { class: "tools" },
    button("upload", "Upload files", () => pick.click(), { text: "Upload files", kind: "primary" }),
    button("upload", "Upload a folder", () => pickFolder.click(), { text: "Upload a folder" }),
    button("newfolder", "New folder", newFolder, { text: "New folder" }),
    h("span", { class: "pair" }, h("label", { for: "conflict" }, "If it exists:"), conflict),
    pick,
    pickFolder,
  );
  const heads = Object.entries(SORTS).map(([name, title]) => {
    const sorter = h("button", { type: "button", onclick: () => sortBy(name) }, title);
    const cell = h("th", { scope: "col", class: name }, sorter);
    cell.dataset.sort = name;
    return cell;
  });
  const body = h("tbody", { onkeydown: move });
  const table = h(
    "table",
    { class: "files" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads[0],
        heads[1],
        heads[2],
        h("th", { scope: "col", class: "owner" }, "Owner, mode"),
        h("th", { scope: "col", class: "act" }, h("span", { class: "hidden" }, "Actions")),
      ),
    ),
    body,
  );
  const note = h("p", { class: "empty", hidden: true });
  const more = button(null, "Show more", () => page().catch(fail), { text: "Show more" });
  const tail = h("p", { class: "tail" });
  const overlay = h("div", { class: "overlay", hidden: true }, h("p", {}, icon("upload"), h("span", {})));
  const element = h(
    "section",
    { class: "view", "aria-label": "Files" },
    h("div", { class: "bar" }, crumbs, tools),
    table,
    note,
    h("div", { class: "foot" }, tail, more),
    overlay,
  );

  async function show(rest) {
    const path = history.state?.path ?? (rest ? decodeURIComponent(rest) : state.path);
    watchDrops(true);
    await list(path);
  }

  function go(path) {
    app.go(place(path), { path });
  }

  async function list(path) {
    const same = path === state.path;
    state.path = path;
    drawCrumbs();
    try {
      await page(true);
    } catch (error) {
      if (error.name === "AbortError") return;
      body.replaceChildren();
      more.hidden = true;
      tail.textContent = "";
      note.hidden = false;
      note.textContent = error.message;
      if (!same && error.status !== 404) throw error;
    }
  }

  // The next page, or the first.
  async function page(anew = false) {
    state.asked?.abort();
    state.asked = new AbortController();
    const { signal } = state.asked;
    const query = { path: state.path, sort: state.sort, limit: PAGE, cursor: anew ? "" : state.cursor };
    const found = await call("GET", "v1/entries", { query, signal });
    if (anew) state.entries = [];
    const begun = state.entries.length;
    state.entries.push(...found.entries);
    state.cursor = found.cursor ?? null;
    const rows = found.entries.map(row);
    if (anew) body.replaceChildren(...rows);
    else body.append(...rows);
    if (!anew) rows[0]?.querySelector(".open")?.focus();
    for (const cell of heads) {
      const order = { [cell.dataset.sort]: "ascending", [`-${cell.dataset.sort}`]: "descending" }[state.sort];
      order ? cell.setAttribute("aria-sort", order) : cell.removeAttribute("aria-sort");
    }
    more.hidden = !state.cursor;
    note.hidden = state.entries.length > 0;
    note.textContent = "Nothing is in here yet. Drop files or folders anywhere on this page.";
    const shown = `${count(state.entries.length, "entry", "entries")}${state.cursor ? " so far" : ""}`;
    tail.textContent = state.entries.length ? shown : "";
    for (const { path, error } of found.errors) toast(`${path}: ${error}`, "bad");
    return begun;
  }

  function sortBy(name) {
    state.sort = state.sort === name ? `-${name}` : name;
    page(true).catch(fail);
  }

  function drawCrumbs() {
    const parts = state.path.split("/").filter(Boolean);
    const link = (path, text) => {
      const onclick = (event) => {
        event.preventDefault();
        go(path);
      };
      const current = path === state.path ? { "aria-current": "location" } : {};
      return h("a", { href: place(path), onclick, ...current }, text);
    };
    const steps = parts.map((name, at) => h("li", {}, link(`/${parts.slice(0, at + 1).join("/")}`, name)));
    crumbs.replaceChildren(
      h("ol", {}, h("li", {}, link("/", "/")), steps),
      button("rename", "Go to a path", goTo, { kind: "small" }),
    );
  }

  async function goTo() {
    const path = await ask({ title: "Go to", label: "Path", value: state.path, confirm: "Go" });
    if (path) go(path.startsWith("/") ? path : join(state.path, path));
  }

  function row(entry) {
    const directory = entry.type === "dir";
    const open = directory
      ? h("a", { class: "open", href: place(entry.path), onclick: (event) => (event.preventDefault(), go(entry.path)) })
      : h("button", { type: "button", class: "open", onclick: () => look(entry).catch(fail) });
    const drawn = { dir: "files", symlink: "link" }[entry.type] ?? "file";
    const arrow = entry.target === undefined ? null : h("span", { class: "muted" }, ` → ${entry.target}`);
    open.append(icon(drawn), h("span", { class: "name" }, entry.name, arrow));
    const actions = [
      directory
        ? button("download", `Download ${entry.name} as an archive`, () => fetchArchive(entry).catch(fail))
        : button("download", `Download ${entry.name}`, () => download(entry.path, entry.name).catch(fail)),
      button("rename", `Rename ${entry.name}`, () => rename(entry)),
      button("remove", `Delete ${entry.name}`, () => remove(entry), { kind: "danger" }),
    ];
    const made = h(
      "tr",
      {},
      h("th", { scope: "row", class: "name" }, open),
      h("td", { class: "size" }, directory ? "" : bytes(entry.size)),
      h("td", { class: "modified" }, moment(entry.modified_ns / 1e6)),
      h("td", { class: "owner" }, `${entry.owner} `, h("code", {}, entry.mode)),
      h("td", { class: "act" }, h("div", { class: "actions" }, actions)),
    );
    made.dataset.path = entry.path;
    made.entry = entry;
    return made;
  }

  // Arrows go up and down, F2 renames, Delete deletes.
  function move(event) {
    const at = event.target.closest("tr");
    const onName = event.target.classList.contains("open");
    const next = {
      ArrowDown: at?.nextElementSibling,
      ArrowUp: at?.previousElementSibling,
      Home: body.firstElementChild,
      End: body.lastElementChild,
    }[event.key];
    if (next) next.querySelector(".open").focus();
    else if (onName && event.key === "F2") rename(at.entry);
    else if (onName && event.key === "Delete") remove(at.entry);
    else return;
    event.preventDefault();
  }

  async function look(entry) {
    if (entry.type === "symlink") {
      const found = await call("GET", "v1/entries", { query: { path: entry.path, limit: 1 } }).catch(() => null);
      if (found) return go(entry.path);
    }
    await preview(entry);
  }

  async function newFolder() {
    const name = await ask({ title: "New folder", label: "Name", confirm: "Make it" });
    if (name) await act(() => call("POST", "v1/files/mkdir", { json: { path: join(state.path, name) } }), name);
  }

  async function rename(entry) {
    const stem =
      entry.name.lastIndexOf(".") > 0 && entry.type !== "dir" ? entry.name.lastIndexOf(".") : entry.name.length;
    const name = await ask({
      title: `Rename ${entry.name}`,
      label: "New name",
      value: entry.name,
      confirm: "Rename",
      select: stem,
    });
    if (!name || name === entry.name) return;
    const target = name.startsWith("/") ? name : join(state.path, name);
    await act(() => call("POST", "v1/files/move", { json: { source: entry.path, target, conflict: "error" } }), name);
  }

  async function remove(entry) {
    const all = entry.type === "dir" ? " and all that is in it" : "";
    const sure = await ask({
      title: `Delete ${entry.name}?`,
      text: `${entry.path}${all} will be gone for good.`,
      confirm: "Delete",
      danger: true,
    });
    if (sure !== null) await act(() => call("POST", "v1/files/remove", { json: { path: entry.path } }));
  }

  // Does it, and shows the directory anew with the focus on the entry of this name, else where it was.
  async function act(job, name) {
    const at = [...body.children].findIndex((one) => one.contains(document.activeElement));
    try {
      await job();
    } catch (error) {
      return fail(error);
    }
    await page(true).catch(fail);
    const named = name && [...body.children].find((one) => one.entry.name === name);
    (named || body.children[Math.min(Math.max(at, 0), body.children.length - 1)])?.querySelector(".open").focus();
  }

  async function fetchArchive(entry) {
    toast(`Packing ${entry.name}…`);
    const answer = await request("GET", "v1/archive", { query: { path: entry.path, format: "tar.gz" } });
    const url = URL.createObjectURL(await answer.blob());
    h("a", { href: url, download: `${entry.name || "root"}.tar.gz` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  function begin(wanted) {
    for (const one of wanted) app.uploads.add({ ...one, target: join(state.path, one.name), conflict: conflict.value });
  }

  let planned = null;
  function uploaded(upload) {
    if (!upload.target.startsWith(state.path) || planned) return;
    planned = setTimeout(() => {
      planned = null;
      // A list that is longer than a page would jump under its reader.
      if (element.isConnected && state.entries.length <= PAGE && !body.contains(document.activeElement))
        page(true).catch(() => {});
    }, 400);
  }

  const drops = {
    dragenter: (event) => over(event),
    dragover: (event) => over(event),
    dragleave: (event) => event.relatedTarget === null && (overlay.hidden = true),
    drop: (event) => {
      event.preventDefault();
      overlay.hidden = true;
      dropped(event.dataTransfer).then(begin).catch(fail);
    },
  };

  function over(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    overlay.hidden = false;
    overlay.querySelector("span").textContent = `Drop to upload into ${state.path}`;
  }

  function watchDrops(on) {
    for (const [name, listener] of Object.entries(drops))
      on ? addEventListener(name, listener) : removeEventListener(name, listener);
  }

  return { element, show, hide: () => watchDrops(false), uploaded };
}
