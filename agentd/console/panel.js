// The uploads as they are seen: a panel over the lower edge of every view.

import { button, bytes, count, duration, fail, h, icon } from "./dom.js";

const MOST = 200; // rows; of more, those that matter come first
const LONGEST = 86_400; // seconds; a longer forecast is none
const RANK = { sending: 0, publishing: 0, retrying: 1, failed: 2, paused: 3, waiting: 4, done: 5 };

function said(upload) {
  const amount = upload.size && `${bytes(upload.sent)} of ${bytes(upload.size)}`;
  const files = upload.folder && `${upload.files.toLocaleString()} of ${count(upload.ends.length, "file")}`;
  const words = {
    waiting: "waiting",
    sending: "",
    retrying: `${upload.error} Trying again…`,
    publishing: upload.folder ? "all sent, unpacking…" : "all sent, finishing…",
    paused: "paused",
    done: "done",
    failed: upload.error,
  };
  const progress =
    upload.state === "done"
      ? [bytes(upload.size), upload.folder && count(upload.ends.length, "file")]
      : [amount, files];
  return [...progress, words[upload.state]].filter(Boolean).join(" · ");
}

function headline(items, totals) {
  const of = (state) => items.filter((item) => item.state === state).length;
  if (totals.active) return `Uploading · ${totals.done} of ${totals.count} done`;
  if (of("failed")) return `${count(of("failed"), "upload")} failed`;
  if (of("paused")) return `${count(of("paused"), "upload")} paused`;
  return `${count(totals.count, "upload")} done`;
}

function controls(upload) {
  const found = [];
  if (upload.active && upload.state !== "publishing")
    found.push(button("pause", `Pause ${upload.name}`, () => upload.hold()));
  if (upload.state === "paused") found.push(button("play", `Resume ${upload.name}`, () => upload.run()));
  if (upload.state === "failed") found.push(button("again", `Try ${upload.name} again`, () => upload.run()));
  if (upload.state !== "done" && upload.state !== "publishing")
    found.push(button("close", `Cancel ${upload.name}`, () => upload.cancel().catch(fail)));
  return found;
}

function makeRow(upload) {
  const bar = h("progress", { max: 1, "aria-label": upload.name });
  const words = h("p", { class: "words" });
  const buttons = h("div", { class: "actions" });
  const name = h(
    "p",
    { class: "name", title: upload.target },
    icon(upload.folder ? "files" : "file"),
    h("span", {}, upload.name),
  );
  const element = h("li", {}, h("div", { class: "what" }, name, bar, words), buttons);
  let state = null;
  const update = () => {
    bar.value = upload.size ? upload.sent / upload.size : Number(upload.state === "done");
    const text = said(upload);
    if (words.textContent !== text) words.textContent = text;
    if (state === upload.state) return;
    state = upload.state;
    element.dataset.state = state;
    const held = buttons.contains(document.activeElement);
    buttons.replaceChildren(...controls(upload));
    if (held) buttons.querySelector("button")?.focus();
  };
  return { element, update };
}

export function showUploads(place, uploads) {
  const rows = new Map();
  let folded = false;
  let planned = false;

  const total = h("progress", { max: 1, "aria-label": "All uploads" });
  const title = h("h2", {}, "Uploads");
  const words = h("p", { class: "words" });
  const hold = button("pause", "Pause all", () => uploads.items.forEach((one) => one.hold()));
  const resume = button("play", "Resume all", () =>
    uploads.items.filter((one) => one.state === "paused").forEach((one) => one.run()),
  );
  const clear = button("done", "Take what is finished off the list", () => uploads.forget());
  const fold = button("down", "Fold the list", () => {
    folded = !folded;
    draw();
  });
  const list = h("ul", {});
  const more = h("p", { class: "words more" });
  place.append(
    h(
      "div",
      { class: "head" },
      h("div", { class: "what" }, title, total, words),
      h("div", { class: "actions" }, hold, resume, clear, fold),
    ),
    list,
    more,
  );

  function draw() {
    planned = false;
    const items = uploads.items.filter((item) => item.state !== "cancelled");
    place.hidden = !items.length;
    const totals = uploads.totals;
    const seconds = (totals.size - totals.sent) / totals.rate;
    const left = seconds < LONGEST ? duration(seconds) : "";
    const finished = totals.done === totals.count;
    title.textContent = headline(items, totals);
    total.value = totals.size ? totals.sent / totals.size : Number(finished);
    const pace = totals.active && totals.rate ? [`${bytes(totals.rate)}/s`, left && `${left} left`] : [];
    words.textContent = [finished ? bytes(totals.size) : `${bytes(totals.sent)} of ${bytes(totals.size)}`, ...pace]
      .filter(Boolean)
      .join(" · ");
    hold.hidden = !items.some((item) => item.active);
    resume.hidden = !items.some((item) => item.state === "paused");
    clear.hidden = !items.some((item) => item.state === "done" || item.state === "failed");
    fold.setAttribute("aria-expanded", String(!folded));
    fold.setAttribute("aria-label", folded ? "Unfold the list" : "Fold the list");
    fold.replaceChildren(icon(folded ? "up" : "down"));
    list.hidden = folded;
    more.hidden = folded || items.length <= MOST;
    more.textContent = `and ${count(items.length - MOST, "more", "more")}`;
    const first =
      items.length > MOST ? [...items].sort((one, other) => RANK[one.state] - RANK[other.state]).slice(0, MOST) : items;
    for (const [item, row] of rows)
      if (!first.includes(item)) {
        row.element.remove();
        rows.delete(item);
      }
    for (const item of first) {
      if (!rows.has(item)) {
        rows.set(item, makeRow(item));
        list.append(rows.get(item).element);
      }
      rows.get(item).update();
    }
    if (totals.active) setTimeout(changed, 1000);
  }

  function changed() {
    if (planned) return;
    planned = true;
    setTimeout(draw, 80);
  }

  return { changed };
}
