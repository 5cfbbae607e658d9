// The page: login, sections, and the regular refresh.

import { get, login, logout, session } from "./api.js";
import { field, make, notice } from "./dom.js";
import * as peers from "./peers.js";
import * as reports from "./reports.js";

/** Time between two refreshes in milliseconds. A hidden page does not refresh. */
const REFRESH_INTERVAL = 2000;

const content = document.getElementById("content");
const head = document.getElementById("head");
let timer;

const SECTIONS = {
  peers: { build: peers.build, refresh: refreshPeers },
  nat: { refresh: () => reports.nat(content) },
  smb: { refresh: () => reports.smb(content) },
  doctor: { refresh: () => reports.doctor(content), once: true },
  changes: { refresh: () => reports.changes(content) },
};

async function refreshPeers() {
  const status = await get("status");
  document.getElementById("interface").textContent = status.interface;
  await peers.refresh(status);
}

function section() {
  const name = location.hash.slice(1);
  return SECTIONS[name] ? name : "peers";
}

async function show() {
  clearTimeout(timer);
  notice("");
  const name = section();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name} – vcgate`;
  content.replaceChildren();
  SECTIONS[name].build?.(content);
  await refresh(name);
}

async function refresh(name) {
  clearTimeout(timer);
  try {
    if (!document.hidden) await SECTIONS[name].refresh();
  } catch (error) {
    if (error.status === 401) return askForPassword();
    notice(error.message, true);
  }
  if (name === section() && !SECTIONS[name].once && !head.hidden) {
    timer = setTimeout(() => refresh(name), REFRESH_INTERVAL);
  }
}

function enter(user) {
  head.hidden = false;
  document.getElementById("user").textContent = user;
  return show();
}

function askForPassword() {
  clearTimeout(timer);
  head.hidden = true;
  notice("");
  const message = make("p", { class: "error", role: "alert" });
  const form = make("form", { class: "login" },
    make("h1", {}, "vcgate"),
    field("Password", { type: "password", name: "password", required: true, autocomplete: "current-password" }),
    make("button", { class: "main" }, "Log in"), message);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const submit = form.querySelector("button");
    submit.disabled = true;
    message.textContent = "";
    try {
      await enter(await login(form.elements.password.value));
    } catch (error) {
      message.textContent = error.message;
      form.elements.password.select();
    } finally {
      submit.disabled = false;
    }
  });
  content.replaceChildren(form);
  form.elements.password.focus();
}

document.getElementById("logout").addEventListener("click", async () => {
  try {
    await logout();
  } catch (error) {
    notice(error.message, true);
  }
  askForPassword();
});
addEventListener("hashchange", async () => {
  if (head.hidden || location.hash === "#content") return;
  await show();
  content.focus();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !head.hidden && !SECTIONS[section()].once) refresh(section());
});

try {
  await enter(await session());
} catch {
  askForPassword();
}
