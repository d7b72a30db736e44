// Status: what the machine is used for, uploads and their quota, shell sessions, and what the daemon can do here.

import { call, request } from "./api.js";
import { ask, button, bytes, count, fail, h, moment, table } from "./dom.js";
import { chosen } from "./drop.js";

const EVERY = 3000;

// One number of the Prometheus text format, without labels.
function number(text, name) {
  const found = text.match(new RegExp(`^${name} (\\S+)$`, "m"));
  return found ? Number(found[1]) : null;
}

function meter(title, used, total, words) {
  const share = total ? used / total : 0;
  const bar = h("meter", { min: 0, max: 1, low: 0.8, high: 0.93, optimum: 0, value: share, "aria-label": title });
  return h(
    "div",
    { class: "card" },
    h("h3", {}, title),
    h("p", { class: "figure" }, `${Math.round(share * 100)} %`),
    bar,
    h("p", { class: "muted" }, words),
  );
}

export function view(app) {
  let timer = null;
  let drawn = "";

  const cards = h("div", { class: "cards" });
  const uploads = h("div", {});
  const sessions = h("div", {});
  const daemon = h("div", {});
  const element = h(
    "section",
    { class: "view", "aria-label": "Status" },
    cards,
    h("h2", {}, "Uploads on the daemon"),
    uploads,
    h("h2", {}, "Shell sessions"),
    sessions,
    h("h2", {}, "This daemon"),
    daemon,
  );

  function drawCards([sample], text) {
    const reserved = number(text, "agentd_uploads_reserved_bytes") ?? 0;
    const quota = number(text, "agentd_uploads_quota_bytes") ?? 0;
    const open = number(text, "agentd_uploads_open") ?? 0;
    const of = (used, total) => `${bytes(used)} of ${bytes(total)}`;
    cards.replaceChildren(
      meter("Processor", sample.cpu_percent, 100, count(sample.cpu_count, "core")),
      meter("Memory", sample.mem_used_bytes, sample.mem_total_bytes, of(sample.mem_used_bytes, sample.mem_total_bytes)),
      meter(
        "Disk of the workspace",
        sample.disk_used_bytes,
        sample.disk_total_bytes,
        of(sample.disk_used_bytes, sample.disk_total_bytes),
      ),
      meter("Quota of uploads", reserved, quota, `${count(open, "upload")} open, ${of(reserved, quota)} declared`),
    );
  }

  function drawUploads({ items, quarantined }) {
    const open = items.filter((item) => ["created", "uploading", "staged", "completing"].includes(item.status));
    const ended = items
      .filter((item) => !open.includes(item))
      .sort((one, other) => (one.updated_at < other.updated_at ? 1 : -1));
    const rows = [...open, ...ended.slice(0, 10)].map((item) => {
      const share = item.content_length ? item.accepted_bytes / item.content_length : 1;
      const bar = h("progress", { max: 1, value: share, "aria-label": item.target_path });
      const mine = app.uploads.items.some((one) => one.session?.upload_id === item.upload_id && one.active);
      const actions = open.includes(item) &&
        !mine && [
          button("play", `Go on with ${item.target_path}`, () => goOn(item), { text: "Go on…" }),
          button("remove", `Abort ${item.target_path}`, () => abort(item), { kind: "danger" }),
        ];
      const amount = open.includes(item)
        ? [bar, ` ${bytes(item.accepted_bytes)} of ${bytes(item.content_length)}`]
        : bytes(item.content_length);
      return [
        h("code", {}, item.target_path),
        item.status,
        amount,
        moment(Date.parse(item.updated_at)),
        h("div", { class: "actions" }, actions || []),
      ];
    });
    uploads.replaceChildren(table(["Target", "State", "Received", "Last change", ""], rows, "There are no uploads."));
    if (quarantined.length)
      uploads.append(
        h(
          "p",
          { class: "notice" },
          `${count(quarantined.length, "upload")} could not be read after a restart and were put aside: ${quarantined.join(", ")}`,
        ),
      );
  }

  function drawSessions(found) {
    const rows = found.map((session) => [
      h("code", {}, session.session_id),
      `${session.shell}, as ${session.user}`,
      session.running ? "open" : `ended with ${session.exit_code}`,
      count(session.commands.length, "command"),
      moment(Date.parse(session.opened_at)),
      h(
        "div",
        { class: "actions" },
        session.running ? button("close", `End session ${session.session_id}`, () => end(session)) : [],
      ),
    ]);
    sessions.replaceChildren(
      table(["Session", "Shell", "State", "Commands", "Opened", ""], rows, "There are no shell sessions."),
    );
  }

  function drawDaemon(version, found) {
    const facts = {
      Version: `agentd ${version.version}, Python ${version.python}`,
      Kernel: found.kernel,
      "File system": found.filesystem,
      "An accepted part survives": { process: "the daemon's death", power: "the loss of power" }[found.durability],
    };
    const marks = Object.entries(found.features).map(([name, works]) =>
      h("li", { class: works ? "yes" : "no" }, h("code", {}, name), works ? "" : " not here"),
    );
    daemon.replaceChildren(
      h(
        "dl",
        { class: "facts" },
        Object.entries(facts).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      ),
      h("ul", { class: "marks", "aria-label": "Features of the kernel" }, marks),
    );
  }

  // Asks for the file or folder that a session was begun with, and sends what is missing of it.
  function goOn(item) {
    const folder = item.kind === "directory_tar";
    const input = h("input", { type: "file", webkitdirectory: folder });
    input.addEventListener("change", () => {
      const [one] = chosen(input.files);
      try {
        if (one) app.uploads.adopt(item, one);
      } catch (error) {
        fail(error);
      }
    });
    input.click();
  }

  async function abort(item) {
    const sure = await ask({
      title: "Abort this upload?",
      text: `What was received for ${item.target_path} is dropped.`,
      confirm: "Abort it",
      danger: true,
    });
    if (sure !== null) await call("DELETE", `v1/uploads/${item.upload_id}`).then(refresh).catch(fail);
  }

  async function end(session) {
    const sure = await ask({
      title: `End session ${session.session_id}?`,
      text: "What was started in it ends too.",
      confirm: "End",
      danger: true,
    });
    if (sure !== null) await call("DELETE", `v1/sessions/${session.session_id}`).then(refresh).catch(fail);
  }

  async function refresh() {
    const [sample, text, listed, shells] = await Promise.all([
      call("GET", "v1/metrics"),
      request("GET", "metrics").then((answer) => answer.text()),
      call("GET", "v1/uploads"),
      call("GET", "v1/sessions"),
    ]);
    drawCards(sample, text);
    const now = JSON.stringify([listed, shells]);
    if (now === drawn) return;
    drawn = now;
    drawUploads(listed);
    drawSessions(shells);
  }

  async function show() {
    clearInterval(timer);
    timer = setInterval(() => document.hidden || refresh().catch(() => {}), EVERY);
    await refresh();
    if (!daemon.childElementCount) drawDaemon(await call("GET", "version"), await call("GET", "v1/capabilities"));
  }

  return { element, show, hide: () => clearInterval(timer) };
}
