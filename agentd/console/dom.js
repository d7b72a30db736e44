// Elements, icons and words: what every view is made of. Text goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  files:
    "M3 6.5A1.5 1.5 0 0 1 4.5 5H8l2 2.5h5.5A1.5 1.5 0 0 1 17 9v5.5a1.5 1.5 0 0 1-1.5 1.5h-11A1.5 1.5 0 0 1 3 14.5z",
  file: "M5.5 2.5h6l3.5 3.5v11.5h-9.5zM11.5 2.5v3.5h3.5",
  link: "M8.5 11.5l3-3M9 6.5l1.5-1.5a2.8 2.8 0 0 1 4 4L13 10.5M11 13.5l-1.5 1.5a2.8 2.8 0 0 1-4-4L7 9.5",
  terminal: "M3 4.5h14v11H3zM6 8l2.2 2L6 12M10 12.5h3.5",
  processes: "M2.5 10.5H6l2-6 4 11 2-5h3.5",
  status: "M4 16V10M8 16V5M12 16v-4M16 16V7.5",
  docs: "M10 5.5C8.5 4 6 3.5 3 3.5v11.5c3 0 5.5.5 7 2 1.5-1.5 4-2 7-2V3.5c-3 0-5.5.5-7 2zM10 5.5V17",
  download: "M10 3.5v9M6.5 9.5L10 13l3.5-3.5M4 16.5h12",
  upload: "M10 13V4M6.5 7.5L10 4l3.5 3.5M4 16.5h12",
  rename: "M4 16l.7-3.2L13.2 4.3a1.5 1.5 0 0 1 2.1 0l.4.4a1.5 1.5 0 0 1 0 2.1L7.2 15.3z",
  remove: "M4 5.5h12M8 5.5V3.5h4v2M5.5 5.5l.8 11h7.4l.8-11",
  add: "M10 4.5v11M4.5 10h11",
  close: "M5.5 5.5l9 9M14.5 5.5l-9 9",
  pause: "M7.5 5v10M12.5 5v10",
  play: "M6.5 4.5l9 5.5-9 5.5z",
  again: "M15.5 10a5.5 5.5 0 1 1-1.7-4M15.5 3v3.5H12",
  done: "M4.5 10.5l3.5 3.5 7.5-8",
  down: "M5.5 8l4.5 4.5L14.5 8",
  up: "M5.5 12L10 7.5l4.5 4.5",
  newfolder:
    "M3 6.5A1.5 1.5 0 0 1 4.5 5H8l2 2.5h5.5A1.5 1.5 0 0 1 17 9v5.5a1.5 1.5 0 0 1-1.5 1.5h-11A1.5 1.5 0 0 1 3 14.5zM10 9.8v4M8 11.8h4",
};

export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("class", `icon icon-${name}`);
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  drawing.append(path);
  return drawing;
}

// An element. on*: listeners; class and aria-*: attributes; the rest: properties.
export function h(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class" || name === "for" || name === "role" || name === "list" || name.includes("-"))
      made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// A table, or where there are no rows what is said in place of it.
export function table(heads, rows, empty) {
  if (!rows.length && empty) return h("p", { class: "empty" }, empty);
  const head = heads.map((one) => h("th", { scope: "col" }, one));
  const body = rows.map((cells) =>
    h(
      "tr",
      {},
      cells.map((cell) => h("td", {}, cell)),
    ),
  );
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

// A button with an icon. Without text it is square, and the label is what it is called and what its tooltip says.
export function button(name, label, onclick, { text = "", kind = "", ...more } = {}) {
  const named = text ? {} : { "aria-label": label, title: label };
  const shape = `${kind} ${text ? "" : "bare"}`.trim();
  return h(
    "button",
    { type: "button", class: shape, onclick, ...named, ...more },
    name && icon(name),
    text && h("span", {}, text),
  );
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = -1;
  do {
    count /= 1024;
    power += 1;
  } while (count >= 1023.95 && power < units.length - 1);
  return `${count.toFixed(1)} ${units[power]}`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const DAY = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const TIME = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

export function moment(milliseconds) {
  const when = new Date(milliseconds);
  if (Number.isNaN(when.getTime())) return "";
  const format = Date.now() - milliseconds < 300 * 86400e3 ? TIME : DAY;
  return h("time", { dateTime: when.toISOString(), title: when.toLocaleString() }, format.format(when));
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

// Says something for a while, to the eye and to screen readers.
export function toast(text, kind = "") {
  const shown = h("p", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(shown);
  setTimeout(() => shown.remove(), kind === "bad" ? 9000 : 4000);
}

export function fail(error) {
  if (error.name !== "AbortError") toast(error.message, "bad");
}

// A question in a modal dialog. The text that was typed, "" where none was asked for, or null where it was dismissed.
export function ask({
  title,
  text = "",
  label = "",
  value = "",
  confirm = "OK",
  danger = false,
  select = value.length,
}) {
  const field = label
    ? h("input", { type: "text", value, required: true, id: "asked", autocomplete: "off", spellcheck: false })
    : null;
  const yes = h("button", { type: "submit", class: danger ? "danger" : "primary" }, confirm);
  const no = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", { method: "dialog" }, h("h2", { id: "question" }, title), text && h("p", {}, text));
  if (field) form.append(h("label", { for: "asked" }, label), field);
  form.append(h("p", { class: "choices" }, no, yes));
  const dialog = h("dialog", { class: "small", "aria-labelledby": "question" }, form);
  return new Promise((resolve) => {
    let answer = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer = field ? field.value : "";
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    (field ?? (danger ? no : yes)).focus();
    field?.setSelectionRange(0, select);
  });
}
