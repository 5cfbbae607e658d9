// The other sections: NAT, SMB, doctor, changes.

import { get } from "./api.js";
import { button, bytes, facts, make, table, when } from "./dom.js";

/** Maximum number of rows of a table. */
const MAX_ROWS = 200;

/** Translated flows, and the use of ports by peer. */
export async function nat(place) {
  const [status, flows] = await Promise.all([get("status"), get("flows")]);
  const byPeer = new Map();
  for (const flow of flows) {
    const use = byPeer.get(flow.peer) ?? { flows: 0, ports: new Set(), bytes: 0 };
    use.flows += 1;
    use.ports.add(`${flow.protocol} ${flow.lan}`);
    use.bytes += flow.to_lan_bytes + flow.to_client_bytes;
    byPeer.set(flow.peer, use);
  }
  const uses = [...byPeer].sort(([, a], [, b]) => b.ports.size - a.ports.size).slice(0, MAX_ROWS);
  const busiest = [...flows].sort((a, b) => b.to_lan_bytes + b.to_client_bytes - a.to_lan_bytes - a.to_client_bytes);
  const drops = Object.entries(status.drops).filter(([, count]) => count > 0);
  place.replaceChildren(
    make("h2", {}, "NAT"),
    facts([["LAN", `${status.lan.address}${status.lan.address6 ? `, ${status.lan.address6}` : ""} on ${
      status.lan.interface} (${status.lan.mode})`],
    ["Flows", `${flows.length}`],
    ["Ports in use", `${new Set(flows.map((flow) => `${flow.protocol} ${flow.lan}`)).size}`],
    ["Conflicts", status.lan.conflicts.map((c) => `${c.address} is also used by ${c.station}`).join(", ") || "none"],
    ["Dropped packets", drops.map(([reason, count]) => `${reason} ${count}`).join(", ") || "none"]]),
    table("Ports by peer", [["Peer"], ["Ports", "number"], ["Flows", "number"], ["Bytes", "number"]],
      uses.map(([peer, use]) => [peer, `${use.ports.size}`, `${use.flows}`, bytes(use.bytes)])),
    table(`Flows with the most bytes (${Math.min(MAX_ROWS, flows.length)} of ${flows.length})`,
      [["Peer"], ["Protocol"], ["Client"], ["LAN"], ["Remote"], ["State"], ["Bytes", "number"]],
      busiest.slice(0, MAX_ROWS).map((flow) => [flow.peer, flow.protocol, flow.client, flow.lan, flow.remote,
        flow.smb ? `${flow.state}, ${flow.smb.state}` : flow.state, bytes(flow.to_lan_bytes + flow.to_client_bytes)])));
}

/** The timeline of the SMB hook. */
export async function smb(place) {
  const [report, timeline] = await Promise.all([get("smb"), get("smb/timeline")]);
  const entries = timeline.entries.reverse().slice(0, MAX_ROWS);
  place.replaceChildren(
    make("h2", {}, "SMB"),
    facts([["Hook", report.hook], ["Session setups", `${report.session_setups}`],
      ["Asked for VcNumber 0", `${report.zero_seen}`], ["Rewritten", `${report.rewritten}`],
      ["Signed, unchanged", `${report.signed_untouched}`], ["Stale connections reset", `${report.stale_reset}`]]),
    table("Connections", [["Peer"], ["Client"], ["Server"], ["VcNumber", "number"], ["State"]],
      report.flows.slice(0, MAX_ROWS).map((flow) => [flow.peer, flow.client, flow.server,
        flow.vc_number == null ? null : `${flow.vc_number}`, flow.state])),
    table("Timeline, newest first", [["Time"], ["Peer"], ["Server"], ["Event"]],
      entries.map((entry) => [when(entry.time), entry.peer, entry.server, event(entry)])));
}

function event(entry) {
  switch (entry.event) {
    case "logon":
      return `logon: VcNumber asked ${entry.vc_sent}, assigned ${entry.vc_forwarded} (${entry.outcome})`;
    case "stale":
      return `older connection: ${entry.text}`;
    case "closed": {
      const cause = entry.cause && `, probably after the logon of ${entry.cause.peer} (${entry.cause.why})`;
      return make("span", { class: cause ? "bad" : null }, `cut off by the server (${entry.how})${cause ?? ""}`);
    }
    case "mass_disconnect":
      return make("span", { class: "bad" }, `its logon made the server drop other clients: ${entry.why}`);
    case "bypass":
    case "unreadable":
      return `${entry.event}: ${entry.reason}`;
    default:
      return entry.event;
  }
}

/** The doctor's checks. */
export async function doctor(place) {
  const heading = make("h2", {}, "Doctor");
  place.replaceChildren(heading, make("p", {}, "Checking …"));
  const checks = await get("doctor");
  const kinds = { ok: "good", warn: "warn", fail: "bad" };
  place.replaceChildren(heading, button("Check again", () => doctor(place)),
    table("Checks of the surroundings", [["Result"], ["Check"], ["Meaning"], ["Remedy"]],
      checks.map((check) => [make("span", { class: kinds[check.verdict] }, check.verdict), check.name, check.meaning,
        check.remedy ?? ""])));
}

/** The last changes. */
export async function changes(place) {
  const list = await get("changes");
  place.replaceChildren(make("h2", {}, "Changes"),
    table("The last changes since the start, newest first", [["Time"], ["Change"], ["By"]],
      list.map((change) => [when(change.time), change.message, change.by || "vcgate"])));
}
