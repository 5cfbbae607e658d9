// Peers: the list with live traffic, and what can be done with one of them.

import { get, patch, peerPath, post, remove } from "./api.js";
import { ago, button, bytes, confirmed, dialog, facts, field, make, notice, rate, when } from "./dom.js";

/** Rows of a page of the list: thousands of rows would make each refresh slow. */
const PAGE = 50;
const COLUMNS = [["Name"], ["State"], ["Address"], ["Last seen"], ["Received", "number"], ["Sent", "number"],
  ["Flows", "number"], ["Note"]];

let peers = [];
let live = new Map();
let before = new Map();
let search = "";
let page = 0;
let parts;

/** Builds the section. */
export function build(place) {
  const find = make("input", { type: "search", id: "search", value: search, autocomplete: "off" });
  find.addEventListener("input", () => { search = find.value; page = 0; render(); });
  const name = make("input", { id: "new-name", name: "name", required: true, maxlength: 64, autocomplete: "off",
    pattern: "[A-Za-z0-9_.@\\-]+", title: "Letters, digits, - _ . @" });
  const add = make("form", { class: "bar" },
    make("div", {}, make("label", { for: "new-name" }, "New peer"), name),
    make("button", { class: "main" }, "Add"));
  add.addEventListener("submit", (event) => {
    event.preventDefault();
    act(async () => {
      const added = await post("peers", { name: name.value });
      name.value = "";
      notice(`Added ${added.peer} with ${added.allowed_ips.join(", ")}.`);
      await refresh();
      await open(added.peer, true);
    });
  });
  const body = make("tbody");
  const caption = make("caption");
  const head = COLUMNS.map(([text, kind]) => make("th", { scope: "col", class: kind }, text));
  parts = {
    body,
    caption,
    previous: button("Previous", () => { page -= 1; render(); }),
    next: button("Next", () => { page += 1; render(); }),
    rows: new Map(),
  };
  place.replaceChildren(
    make("h2", {}, "Peers"),
    make("div", { class: "bar" },
      make("div", { class: "wide" }, make("label", { for: "search" }, "Search"), find), add),
    make("table", {}, caption, make("thead", {}, make("tr", {}, head)), body),
    make("div", { class: "bar" }, parts.previous, parts.next));
  render();
}

/** Loads the list and the traffic. */
export async function refresh(status) {
  const now = performance.now();
  const [listed, state] = await Promise.all([get("peers"), status ?? get("status")]);
  before = live;
  live = new Map(state.peers.map((peer) => {
    const old = before.get(peer.public_key);
    const seconds = old && (now - old.at) / 1000;
    const speed = (count, previous) => seconds > 0 ? Math.max(0, count - previous) / seconds : 0;
    return [peer.public_key, { ...peer, at: now, down: old ? speed(peer.rx_bytes, old.rx_bytes) : 0,
      up: old ? speed(peer.tx_bytes, old.tx_bytes) : 0 }];
  }));
  peers = listed;
  if (parts?.body.isConnected) render();
}

function matching() {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return peers;
  return peers.filter((peer) => {
    const text = [peer.name, peer.note, peer.state, peer.public_key, ...peer.groups, ...peer.allowed_ips].join(" ");
    return words.every((word) => text.toLowerCase().includes(word));
  });
}

/** Renders the visible page. Rows stay the same elements, so that the keyboard's focus stays. */
function render() {
  const found = matching();
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(0, page), pages - 1);
  const shown = found.slice(page * PAGE, (page + 1) * PAGE);
  const connected = found.filter((peer) => live.get(peer.public_key)?.connected).length;
  parts.caption.textContent = `${found.length} of ${peers.length} peers, ${connected} connected` +
    (pages > 1 ? `, page ${page + 1} of ${pages}` : "");
  parts.previous.hidden = parts.next.hidden = pages === 1;
  parts.previous.disabled = page === 0;
  parts.next.disabled = page === pages - 1;
  const rows = shown.map((peer) => {
    const row = parts.rows.get(peer.name) ?? makeRow(peer.name);
    fill(row, peer);
    return row;
  });
  parts.rows = new Map(shown.map((peer, at) => [peer.name, rows[at]]));
  const same = rows.length === parts.body.children.length &&
    rows.every((row, at) => row === parts.body.children[at]);
  if (!same) parts.body.replaceChildren(...rows);
}

function makeRow(name) {
  const cells = COLUMNS.map(([label, kind]) => make("td", { class: kind, "data-label": label }));
  cells[0].append(button(name, () => open(name), "link"));
  return make("tr", {}, cells);
}

function fill(row, peer) {
  const state = live.get(peer.public_key);
  const [word, kind] = describe(peer, state);
  const texts = [null, word, peer.allowed_ips.join(", "), ago(state?.last_seen),
    state ? `${rate(state.down)} (${bytes(state.rx_bytes)})` : "–",
    state ? `${rate(state.up)} (${bytes(state.tx_bytes)})` : "–",
    state ? `${state.flows}` : "–", peer.note ?? ""];
  texts.forEach((text, at) => {
    if (text != null && row.cells[at].textContent !== text) row.cells[at].textContent = text;
  });
  row.cells[1].className = kind;
}

function describe(peer, state) {
  if (peer.state === "disabled") return ["disabled", "dim"];
  if (peer.state === "expired") return ["expired", "warn"];
  if (state?.connected) return ["connected", "good"];
  return [state?.last_failure ? "cannot connect" : "not connected", state?.last_failure ? "bad" : "dim"];
}

/** Runs an operation, and shows its error. */
async function act(operation) {
  try {
    await operation();
  } catch (error) {
    notice(error.message, true);
  }
}

/** Opens what can be done with a peer. */
async function open(name, isNew = false) {
  const peer = peers.find((peer) => peer.name === name);
  if (!peer) return;
  const state = live.get(peer.public_key);
  const output = make("div", { "aria-live": "polite" });
  const message = make("p", { class: "error", role: "alert" });
  let box;
  const run = (operation) => async () => {
    message.textContent = "";
    try {
      await operation();
    } catch (error) {
      message.textContent = error.message;
    }
  };
  const change = (operation, text) => run(async () => {
    await operation();
    await refresh();
    notice(text);
    box.close();
  });
  const showCode = run(async () => {
    const image = make("img", { alt: `QR code of the configuration of ${name}`, width: 416, height: 416,
      src: `/api/v1/${peerPath(name, "/qr")}` });
    await image.decode().catch(() => {
      throw new Error("there is no code: the client has its own key, or the endpoint's address is not known");
    });
    output.replaceChildren(make("figure", {}, image));
  });
  const showWhy = run(async () => {
    const why = await get(peerPath(name, "/why"));
    const findings = why.findings.map((found) => make("p", {}, make("strong", {}, `${found.confidence}: `),
      found.cause, make("br"), `→ ${found.remedy}`));
    output.replaceChildren(make("p", {}, why.connected ? "It is connected." : "It is not connected."), ...findings);
  });
  const makeLink = run(async () => {
    const link = await post(peerPath(name, "/link"));
    const url = new URL(link.url, location.href).href;
    output.replaceChildren(field("Link, which works once", { value: url, readonly: true, id: "link" }),
      make("p", {}, `until ${when(link.expires)}`));
    output.querySelector("input").select();
  });
  const settings = make("form", { class: "bar" },
    make("div", {}, field("Expires (30d, never)", { name: "expires", value: peer.expires ?? "" })),
    make("div", { class: "wide" }, field("Note", { name: "note", value: peer.note ?? "" })),
    make("button", {}, "Save"));
  settings.addEventListener("submit", (event) => {
    event.preventDefault();
    const keys = { note: settings.elements.note.value };
    const expires = settings.elements.expires.value.trim();
    if (expires !== (peer.expires ?? "")) keys.expires = expires === "never" ? "" : expires;
    change(() => patch(peerPath(name), keys), `Changed ${name}.`)();
  });
  const renaming = make("form", { class: "bar" },
    make("div", {}, field("New name", { name: "to", required: true, maxlength: 64, value: name })),
    make("button", {}, "Rename"));
  renaming.addEventListener("submit", (event) => {
    event.preventDefault();
    const to = renaming.elements.to.value;
    change(() => post(peerPath(name, "/rename"), { to }), `Renamed ${name} to ${to}.`)();
  });
  const isDisabled = peer.state === "disabled";
  const turn = isDisabled ? "enable" : "disable";
  const switching = button(isDisabled ? "Enable" : "Disable",
    change(() => post(peerPath(name, `/${turn}`)), `${name} is ${turn}d.`));
  const rekey = async () => {
    if (await confirmed(`Give ${name} new keys? Its device needs its new configuration then.`, "New keys")) {
      await change(() => post(peerPath(name, "/rekey")), `${name} has new keys.`)();
    }
  };
  const removing = async () => {
    if (await confirmed(`Remove ${name} and its keys? Its device cannot connect after that.`, "Remove")) {
      await change(() => remove(peerPath(name)), `Removed ${name}.`)();
    }
  };
  box = dialog(name,
    facts([["State", describe(peer, state)[0]], ["Address", peer.allowed_ips.join(", ")],
      ["Groups", peer.groups.join(", ")], ["Reach", peer.reach?.join(", ") ?? "the LAN"],
      ["Expires", when(peer.expires)], ["From", state?.endpoint], ["Last seen", ago(state?.last_seen)],
      ["Public key", peer.public_key]]),
    make("div", { class: "actions" },
      button("QR code", showCode),
      make("a", { href: `/api/v1/${peerPath(name, "/client")}`, download: `${name}.conf` }, "Configuration file"),
      button("One-time link", makeLink), button("Why not connected?", showWhy)),
    message, output, settings, renaming,
    make("div", { class: "actions" }, switching, button("New keys", rekey), button("Remove", removing, "danger")));
  if (isNew) await showCode();
}
