// What a person drops or chooses: single files, and folders with all that is in them.

function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

async function childrenOf(directory) {
  const reader = directory.createReader();
  const children = [];
  for (;;) {
    // A reader gives at most a hundred at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return children;
    children.push(...some);
  }
}

async function collect(directory, prefix, found) {
  const children = await childrenOf(directory);
  if (!children.length && prefix) found.push({ path: prefix.slice(0, -1), file: null });
  for (const child of children) {
    if (child.isDirectory) await collect(child, `${prefix}${child.name}/`, found);
    else found.push({ path: prefix + child.name, file: await fileOf(child) });
  }
  return found;
}

// Of a drop: {name, file} and {name, entries}. The browser forgets what was dropped after the event, so the entries are
// taken out before the first wait.
export async function dropped(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry());
  const found = [];
  for (const entry of entries) {
    if (!entry) continue;
    if (entry.isDirectory) found.push({ name: entry.name, entries: await collect(entry, "", []) });
    else found.push({ name: entry.name, file: await fileOf(entry) });
  }
  return found;
}

// Of an <input type=file>; one for folders gives each file's path within its folder.
export function chosen(files) {
  const folders = new Map();
  const found = [];
  for (const file of files) {
    const [top, ...below] = (file.webkitRelativePath || file.name).split("/");
    if (!below.length) {
      found.push({ name: file.name, file });
      continue;
    }
    if (!folders.has(top)) folders.set(top, []);
    folders.get(top).push({ path: below.join("/"), file });
  }
  return [...found, ...[...folders].map(([name, entries]) => ({ name, entries }))];
}
