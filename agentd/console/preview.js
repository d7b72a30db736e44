// The beginning of a file, in a dialog: text, a picture, or bytes in hex.

import { download, request } from "./api.js";
import { button, bytes, fail, h } from "./dom.js";

const TEXT = 256 * 1024;
const HEX = 1024;
const PICTURE = 16 * 2 ** 20;
const PICTURES = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  gif: "image/gif",
  webp: "image/webp",
  svg: "image/svg+xml",
};

function hex(content) {
  const lines = [];
  for (let at = 0; at < Math.min(content.length, HEX); at += 16) {
    const row = [...content.subarray(at, at + 16)];
    const digits = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const letters = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${digits.padEnd(47)}  ${letters}`);
  }
  return lines.join("\n");
}

async function beginning(entry, most) {
  if (!entry.size) return new Uint8Array();
  const answer = await request("GET", "v1/file", {
    query: { path: entry.path },
    headers: { Range: `bytes=0-${most - 1}` },
  });
  return new Uint8Array(await answer.arrayBuffer());
}

async function picture(entry, type) {
  const url = URL.createObjectURL(new Blob([await beginning(entry, PICTURE)], { type }));
  return { shown: h("img", { src: url, alt: entry.name }), note: "", done: () => URL.revokeObjectURL(url) };
}

async function text(entry) {
  const content = await beginning(entry, TEXT);
  const binary = content.subarray(0, 8192).includes(0);
  const part = binary ? HEX : TEXT;
  const note = content.length >= part && entry.size > part ? `the first ${bytes(part)}` : "";
  const words = binary ? hex(content) : new TextDecoder().decode(content);
  const shown = h("pre", { tabIndex: 0, "aria-label": `Content of ${entry.name}` }, words || "This file is empty.");
  return { shown, note: [binary && "binary", note].filter(Boolean).join(", "), done: () => {} };
}

export async function preview(entry) {
  if (entry.type !== "file" && entry.type !== "symlink") throw new Error(`${entry.name} is no file (${entry.type}).`);
  const type = PICTURES[entry.name.split(".").at(-1).toLowerCase()];
  const { shown, note, done } = await (type && entry.size <= PICTURE ? picture(entry, type) : text(entry));
  const close = button("close", "Close", () => dialog.close());
  const save = button("download", "Download", () => download(entry.path, entry.name).catch(fail), { text: "Download" });
  const facts = [bytes(entry.size), `${entry.owner}:${entry.group}`, entry.mode, note].filter(Boolean).join(" · ");
  const dialog = h(
    "dialog",
    { class: "preview", "aria-labelledby": "preview-name" },
    h(
      "header",
      {},
      h("div", {}, h("h2", { id: "preview-name" }, entry.name), h("p", { class: "muted" }, facts)),
      h("div", { class: "actions" }, save, close),
    ),
    h("div", { class: "content" }, shown),
  );
  dialog.addEventListener("close", () => {
    done();
    dialog.remove();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
}
