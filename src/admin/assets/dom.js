// Makes elements, and formats quantities. Texts are never parsed as HTML.

/** Makes an element: `make("td", { class: "number" }, "5")`. A property that begins with `on` is a listener. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** Makes a table: columns are `[heading, class]`, rows are lists of texts, elements or null. */
export function table(caption, columns, rows) {
  const head = columns.map(([text, kind]) => make("th", { scope: "col", class: kind }, text));
  const body = rows.map((cells) => make("tr", {}, cells.map((cell, at) => {
    const [label, kind] = columns[at];
    return make("td", { class: kind, "data-label": label }, cell ?? "–");
  })));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, head)),
    make("tbody", {}, body));
}

/** Makes a description list of pairs. */
export function facts(pairs) {
  return make("dl", {}, pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value || "–")]));
}

export const button = (text, onclick, kind) => make("button", { type: "button", class: kind, onclick }, text);

/** Makes a labelled field. */
export function field(label, properties) {
  return make("label", { class: properties.class }, label, make("input", { ...properties, class: null }));
}

/** Shows a message below the head. */
export function notice(text, isError = false) {
  const place = document.getElementById("notice");
  place.textContent = text;
  place.className = isError ? "error" : "";
}

/** Opens a dialog, which Escape closes and which is removed then. */
export function dialog(title, ...children) {
  const heading = make("h2", { id: "dialog-title" }, title);
  const box = make("dialog", { "aria-labelledby": "dialog-title" }, heading, ...children);
  box.append(make("div", { class: "actions" }, button("Close", () => box.close())));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

/** Asks a question. */
export function confirmed(question, action) {
  return new Promise((resolve) => {
    let answer = false;
    const yes = button(action, () => { answer = true; box.close(); }, "danger");
    const box = dialog(question, make("div", { class: "actions" }, yes));
    box.addEventListener("close", () => resolve(answer));
  });
}

export function bytes(count) {
  let value = count;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024 || unit === "TiB") return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
}

export const rate = (perSecond) => `${bytes(Math.round(perSecond))}/s`;

export function ago(time) {
  if (!time) return "never";
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit} ago`;
  }
  return `${seconds} s ago`;
}

export const when = (time) => time ? new Date(time).toLocaleString() : "–";
