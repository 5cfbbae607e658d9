// Requests to the API. Changes carry the session's CSRF token.

let csrfToken = "";

/** An answer with an error: its status, the cause and the remedy. */
export class ApiError extends Error {
  constructor(status, { message, remedy } = {}) {
    super([message ?? `the endpoint answered ${status}`, remedy].filter(Boolean).join("; "));
    this.status = status;
  }
}

async function request(method, path, body) {
  const headers = { "X-CSRF-Token": csrfToken };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new ApiError(0, { message: "the endpoint does not answer", remedy: "is it running?" });
  }
  const text = await answer.text();
  let parsed;
  try {
    parsed = text ? JSON.parse(text) : undefined;
  } catch {
    parsed = { error: { message: text } };
  }
  if (!answer.ok) throw new ApiError(answer.status, parsed?.error);
  return parsed;
}

export const get = (path) => request("GET", path);
export const post = (path, body = {}) => request("POST", path, body);
export const patch = (path, body) => request("PATCH", path, body);
export const remove = (path) => request("DELETE", path);

/** The path of a peer's routes. */
export const peerPath = (name, rest = "") => `peers/${encodeURIComponent(name)}${rest}`;

/** Returns the user's name if there is a session. */
export async function session() {
  return begin(await get("session"));
}

export async function login(password) {
  return begin(await post("session", { password }));
}

export async function logout() {
  await remove("session");
  csrfToken = "";
}

function begin({ user, csrf_token }) {
  csrfToken = csrf_token;
  return user;
}
