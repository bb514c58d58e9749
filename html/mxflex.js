/**
 * MXFlex for web pages: sign in, see telephone calls as they happen, and control them.
 *
 * One module without dependencies. Import it from the server that it shall talk to:
 *
 *     import { login } from "https://mx.example.com/mxflex.js";
 *     const session = await login("anna", "secret");
 *     const stream = session.connect();
 *     stream.addEventListener("DeliveredEvent", ({ detail }) => console.log(detail.callingDevice));
 *
 * docs/client.md is its reference, docs/api.md that of the API behind it.
 *
 * @module mxflex
 */

/** Where the module came from is the server, unless another one is named. */
const HOME = new URL(".", import.meta.url).href;

/** A request is given up after this time; commands may take the server some 7 seconds. */
const REQUEST_MS = 15_000;

/** Who signs out should not have to wait for a server that hangs. */
const LOGOUT_MS = 3_000;

/** A stream opens at once, but a server that was restarted may have to ask the MX first: 10 s. */
const OPENING_MS = 20_000;

/**
 * Where a connection has died the browser may have others, idle, that are as dead. So it gets this
 * long to open the next stream, so many times; whoever gives up a request gives up its connection.
 */
const HASTY_MS = 3_000;
const HASTY_TRIES = 5;

/** A token is renewed when this part of its life is over; not by all tabs in the same moment. */
const RENEW_FROM = 0.7;
const RENEW_TO = 0.8;

/** A renewal that failed is tried again after so long; doubled up to the last. */
const FIRST_RENEWAL_MS = 5_000;
const LAST_RENEWAL_MS = 60_000;

/** How long before its end one is told of a session that cannot be renewed. */
const ENDING_MS = 5 * 60_000;

/** A lost stream comes back after so long, unless the server says otherwise; doubled up to this. */
const FIRST_RETRY_MS = 3_000;
const LAST_RETRY_MS = 30_000;
const LEAST_RETRY_MS = 500;

/** No server is obeyed that wants one to wait for longer. */
const LONGEST_WAIT_MS = 60 * 60_000;

/** A stream that the server has ended is asked for at once, but not again within this time. */
const ASKED_MS = 30_000;

/** A stream on which nothing comes for this long is dead: no server is silent for so long. */
const LONGEST_SILENCE_MS = 60_000;

/** Nor is one that sends comments more often silent for so many of their intervals. */
const SILENT_INTERVALS = 2.5;

/** After a sleep this many do, since it may well not have outlived it. */
const SUSPICIOUS_INTERVALS = 1.25;

/**
 * What has come while the page slept gets so long to be read before a stream is called dead; and so
 * long may a stream be asked for again before one is told that it is not there.
 */
const GRACE_MS = 1_000;

/** A clock that ticks so often shows by a tick that is late that the machine has slept. */
const TICK_MS = 5_000;
const SLEPT_MS = 15_000;

/** A leader of tabs that is not heard for this long is asked for a sign of life, and then again. */
const LEADER_MS = 10_000;
const UNANSWERED = 2;

/** The version of what tabs say to each other; one that speaks another has its own stream. */
const SHARING = 1;

const NOT_MXFLEX = "what answers is not MXFlex";

/** Client errors that may pass: by a login, by waiting, on another connection. */
const PASSING = new Set([401, 403, 408, 421, 425, 429]);

/** Events that a tab keeps for tabs that join later; the server keeps as many. */
const KEPT_EVENTS = 256;

// --- Errors --------------------------------------------------------------------------------------

/** The server said no. `message` is the server's own text. */
export class Refused extends Error {
  name = "Refused";

  /**
   * @param {string} message What the server says.
   * @param {number} status The HTTP status.
   * @param {number | null} [retryAfter] Seconds to wait, where the server says so.
   */
  constructor(message, status, retryAfter = null) {
    super(message);
    /** @type {number} */
    this.status = status;
    /** @type {number | null} */
    this.retryAfter = retryAfter;
  }
}

/** The server could not be asked, or did not answer. */
export class Unreachable extends Error {
  name = "Unreachable";
}

/** The session that asked is over, so the answer does not matter any more. */
export class Abandoned extends Error {
  name = "Abandoned";

  constructor(message = "the session is over") {
    super(message);
  }
}

// --- Requests ------------------------------------------------------------------------------------

/** Gives the base of all URLs of a server, which ends in a slash. */
function baseOf(server) {
  const url = new URL(server ?? HOME, HOME);
  url.search = url.hash = "";
  url.pathname = url.pathname.replace(/\/*$/, "/");
  return url.href;
}

/** Gives fields as a form. One that is not there is left out; it would be the text `undefined`. */
function formOf(fields) {
  return new URLSearchParams(Object.entries(fields).filter(([, value]) => value != null));
}

/**
 * Makes a request and gives `{response, data}`; `data` is what the JSON says, `null` where there is
 * none. With `open` the body is left to the caller, and `over` ends it. Throws `Refused`,
 * `Unreachable`, or `Abandoned` once `over` is aborted.
 */
async function send(url, { limit = REQUEST_MS, open = false, over, ...options }) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), limit);
  const signals = over === undefined ? [late.signal] : [late.signal, over];
  try {
    const signal = AbortSignal.any(signals);
    const response = await fetch(url, { cache: "no-store", ...options, signal });
    if (!response.ok && response.status !== 304) {
      throw await refusal(response);
    }
    const hasData = !open && response.status !== 304 && response.status !== 204;
    return { response, data: hasData ? await response.json() : null };
  } catch (error) {
    if (over?.aborted) {
      throw new Abandoned();
    }
    if (error instanceof Refused) {
      throw error;
    }
    const silent = late.signal.aborted;
    throw new Unreachable(silent ? "MXFlex does not answer" : "MXFlex cannot be reached");
  } finally {
    clearTimeout(timer);
  }
}

async function refusal(response) {
  // A proxy before MXFlex may have words of its own.
  const answer = await response.json().catch(() => null);
  const text = typeof answer?.error === "string" ? answer.error : null;
  const { status } = response;
  const refused = new Refused(
    text ?? `the server answered ${status}`,
    status,
    secondsOf(response.headers.get("Retry-After")),
  );
  // That of a proxy, which may have a 404 for a server that is away, passes.
  if (answer?.code === status && status >= 400 && status < 500 && !PASSING.has(status)) {
    lasting.add(refused);
  }
  return refused;
}

/** Those by which MXFlex itself says that the request is wrong, and so will be the next like it. */
const lasting = new WeakSet();

/** Reads a `Retry-After`, which is a number of seconds or a date (RFC 9110, 10.2.3). */
function secondsOf(header) {
  if (header === null) {
    return null;
  }
  if (/^\s*\d+\s*$/.test(header)) {
    return Number(header);
  }
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, Math.ceil((at - Date.now()) / 1000));
}

/** Makes a wait up to a quarter longer, so that not all do a thing at once. */
function spread(milliseconds) {
  return Math.min(Math.round(milliseconds * (1 + Math.random() / 4)), LONGEST_WAIT_MS);
}

// --- Sleep and networks --------------------------------------------------------------------------

/** Those who want to know: called with `online`, `offline` or `awake`. */
const watchers = new Set();
let watching = false;
let clock;
let lastTick;

function tell(what) {
  for (const watcher of [...watchers]) {
    // One may end another.
    if (watchers.has(watcher)) {
      watcher(what);
    }
  }
}

function tick() {
  const now = Date.now();
  const slept = now - lastTick > SLEPT_MS;
  lastTick = now;
  if (slept) {
    tell("awake");
  }
}

/** Calls a function when the network comes or goes, or the page wakes up; gives what stops it. */
function watch(watcher) {
  if (!watching) {
    watching = true;
    globalThis.addEventListener?.("online", () => tell("online"));
    globalThis.addEventListener?.("offline", () => tell("offline"));
    globalThis.addEventListener?.("pageshow", () => tell("awake"));
    // A worker has no document.
    const page = globalThis.document;
    page?.addEventListener("resume", () => tell("awake"));
    page?.addEventListener("visibilitychange", () => page.hidden || tell("awake"));
  }
  if (watchers.size === 0) {
    lastTick = Date.now();
    clock = setInterval(tick, TICK_MS);
  }
  watchers.add(watcher);
  return () => {
    watchers.delete(watcher);
    if (watchers.size === 0) {
      clearInterval(clock);
    }
  };
}

// --- Sessions ------------------------------------------------------------------------------------

/**
 * Signs somebody in.
 *
 * @param {string} name The login at the MX.
 * @param {string} password
 * @param {{server?: string}} [options] `server`: the URL of MXFlex; the module's own by default.
 * @returns {Promise<Session>}
 * @throws {Refused | Unreachable}
 */
export async function login(name, password, { server } = {}) {
  const base = baseOf(server);
  const body = formOf({ login: name, password });
  const { data } = await send(new URL("api/login", base), { method: "POST", body });
  return new Session(base, keptOf(data));
}

/**
 * Goes on with a session that was saved, in this tab or before a reload. Nothing is asked of the
 * server: one that has ended meanwhile says so by its event `ended`.
 *
 * @param {string} saved What `Session.save` gave.
 * @param {{server?: string}} [options] `server`: as for `login`.
 * @returns {Session}
 * @throws {TypeError} The text is no saved session.
 */
export function resume(saved, { server } = {}) {
  let kept = null;
  try {
    kept = JSON.parse(saved);
  } catch {
    // As if it were something else.
  }
  if (typeof kept?.token !== "string" || !(kept.expiresAt > kept.begunAt)) {
    throw new TypeError("this is no saved session");
  }
  return new Session(baseOf(server), kept);
}

/** Gives what is to be kept of the answer to a login; times are those of this machine. */
function keptOf(grant) {
  const { access_token: token, expires_in: seconds } = grant ?? {};
  if (typeof token !== "string" || !(seconds > 0)) {
    throw new Unreachable(NOT_MXFLEX);
  }
  const begunAt = Date.now();
  return { token, begunAt, expiresAt: begunAt + seconds * 1000 };
}

/** Gives what a token says; throws when it is none. */
function claimsOf(token) {
  try {
    const letters = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new TypeError("this is no token");
  }
}

/**
 * A call, by what commands must name; what `calls()` gives and what events have in `detail` fit.
 *
 * @typedef {{callId: number, deviceId: string}} CallId
 */

/**
 * A person of the address book: docs/api.md, "Contacts".
 *
 * @typedef {{jid: string, status?: string, note?: string, firstName: string, lastName: string,
 *   ext: string, homePhone?: string, cellPhone?: string, email?: string, homeSystem?: string,
 *   did?: string, exchangeId?: string}} Contact
 */

/**
 * A call of the extension: docs/api.md, "Calls".
 *
 * @typedef {{callId: number, deviceId: string, globalCallId?: string, state: string,
 *   direction?: "incoming" | "outgoing", callingDevice?: string, callingDisplayName?: string,
 *   calledDevice?: string, answeringDevice?: string, answeringDisplayName?: string,
 *   recording?: boolean, startedAt: string, answeredAt?: string, since: string}} Call
 */

/**
 * Somebody who is signed in; made by `login` and `resume`.
 *
 * Its methods throw `Refused`, `Unreachable`, or `Abandoned`. It renews itself. Events:
 * - `renewed`: it lasts longer now, so save it again
 * - `ending`: it cannot be renewed, and ends soon; `detail` is `{at}`, in milliseconds
 * - `ended`: it is over; `detail` is `{reason}`: `expired`, `refused` (the server does not know it
 *   any more) or `logged-out`
 */
export class Session extends EventTarget {
  #base;
  #token;
  #begunAt;
  #expiresAt;
  #renewAt;
  #failures = 0;
  #told = false;
  #renewing = false;
  #timer;
  #unwatch;
  #over = new AbortController();
  #streams = new Set();
  /** The address book and the latest search, each with its `ETag`. */
  #lists = new Map();

  /** @hideconstructor */
  constructor(base, kept) {
    super();
    const claims = claimsOf(kept.token);
    this.#base = base;
    /** @type {string} The person's extension. */
    this.extension = String(claims.ext);
    this.#keep(kept);
    this.#unwatch = watch((what) => what === "offline" || this.#look());
    // Not at once: who makes a session first wants to listen to it.
    this.#timer = setTimeout(() => this.#look(), 0);
  }

  /** @type {number} When it ends unless it is renewed, in milliseconds since the epoch. */
  get expiresAt() {
    return this.#expiresAt;
  }

  /**
   * Gives a text with which `resume` goes on. It is as secret as a password.
   *
   * @returns {string}
   */
  save() {
    return JSON.stringify({
      token: this.#token,
      begunAt: this.#begunAt,
      expiresAt: this.#expiresAt,
    });
  }

  #keep({ token, begunAt, expiresAt }) {
    this.#token = token;
    this.#begunAt = begunAt;
    this.#expiresAt = expiresAt;
    this.#failures = 0;
    this.#told = false;
    const part = RENEW_FROM + Math.random() * (RENEW_TO - RENEW_FROM);
    // The server counts in whole seconds, so it may end up to one earlier.
    const life = expiresAt - begunAt;
    this.#renewAt = begunAt + part * Math.max(life - 1000, life / 2);
  }

  // --- Its life ----------------------------------------------------------------------------------

  /** Does what is due by now, and comes back for what is due next. */
  #look() {
    clearTimeout(this.#timer);
    if (this.#over.signal.aborted) {
      return;
    }
    const now = Date.now();
    if (now >= this.#expiresAt) {
      this.#end("expired");
      return;
    }
    const tellAt = this.#failures > 0 && !this.#told ? this.#expiresAt - ENDING_MS : Infinity;
    if (now >= tellAt) {
      this.#told = true;
      this.dispatchEvent(new CustomEvent("ending", { detail: { at: this.#expiresAt } }));
      this.#look();
      return;
    }
    if (now >= this.#renewAt && !this.#renewing) {
      this.#renew();
    }
    const next = Math.min(this.#expiresAt, tellAt, this.#renewing ? Infinity : this.#renewAt);
    // In steps, since a timer stands still while the machine sleeps.
    this.#timer = setTimeout(() => this.#look(), Math.min(Math.max(next - now, 0), 60_000));
  }

  async #renew() {
    this.#renewing = true;
    try {
      const { data } = await this.#send("token", { method: "POST" });
      this.#keep(keptOf(data));
      this.dispatchEvent(new CustomEvent("renewed"));
    } catch (error) {
      this.#failures += 1;
      const left = this.#expiresAt - Date.now();
      const later = Math.min(FIRST_RENEWAL_MS * 2 ** (this.#failures - 1), LAST_RENEWAL_MS);
      // Not so late that the life is over before.
      const wait = Math.max(Math.min(later, left / 3), (error.retryAfter ?? 1) * 1000);
      // The login is too old: so it will be later on. Without the monitor there is hope: somebody
      // may sign in as this user again.
      const never = error.status === 403 && error.message !== "not monitored";
      this.#renewAt = never ? Infinity : Date.now() + spread(wait);
    } finally {
      this.#renewing = false;
      this.#look();
    }
  }

  #end(reason) {
    if (this.#over.signal.aborted) {
      return;
    }
    const streams = [...this.#streams];
    this.#stop();
    streams.forEach((end) => end(true));
    this.dispatchEvent(new CustomEvent("ended", { detail: { reason } }));
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#unwatch();
    this.#over.abort();
    this.#streams.clear();
  }

  /** Ends all requests and streams of this session here; others with its token go on. */
  close() {
    const streams = [...this.#streams];
    this.#stop();
    streams.forEach((end) => end(false));
  }

  /**
   * Signs the person out: MXFlex stops watching the extension, for all who are signed in as this
   * person. The session is over then, even if the server cannot be told.
   *
   * @returns {Promise<void>}
   */
  async logout() {
    // The server ends the streams; that must not look like a fault.
    for (const end of [...this.#streams]) {
      end(true);
    }
    this.#streams.clear();
    try {
      await this.#send("logout", { method: "POST", keepalive: true, limit: LOGOUT_MS });
    } finally {
      this.#end("logged-out");
    }
  }

  // --- Requests ----------------------------------------------------------------------------------

  async #send(path, { headers = {}, over, ...options } = {}) {
    const ended = this.#over.signal;
    if (ended.aborted) {
      throw new Abandoned();
    }
    const both = over === undefined ? ended : AbortSignal.any([ended, over]);
    const token = this.#token;
    const authorized = { ...headers, Authorization: `Bearer ${token}` };
    try {
      const url = new URL(`api/${path}`, this.#base);
      return await send(url, { ...options, over: both, headers: authorized });
    } catch (error) {
      if (error.status === 401 && !ended.aborted) {
        if (token !== this.#token) {
          // It was renewed on the way.
          return this.#send(path, { ...options, headers, over });
        }
        // The clocks of two machines do not agree to the second.
        this.#end(Date.now() > this.#expiresAt - 2000 ? "expired" : "refused");
      }
      throw error;
    }
  }

  #post(path, fields = {}) {
    return this.#send(path, { method: "POST", body: formOf(fields) });
  }

  #command(name, { callId, deviceId }, more = {}) {
    return this.#post(`call/${name}`, { callId, deviceId, ...more }).then(() => undefined);
  }

  /**
   * Gives the address book, or those in it whom a text is about (name or number). While nothing
   * has changed it is the same array as before.
   *
   * @param {{query?: string}} [options]
   * @returns {Promise<Contact[]>}
   */
  async contacts({ query = "" } = {}) {
    const kept = this.#lists.get(query);
    const path = query ? `contacts?${new URLSearchParams({ q: query })}` : "contacts";
    const headers = kept ? { "If-None-Match": kept.tag } : {};
    const { response, data } = await this.#send(path, { headers });
    if (response.status === 304) {
      return kept.contacts;
    }
    const { contacts } = data;
    const tag = response.headers.get("ETag");
    for (const other of this.#lists.keys()) {
      if (other !== "" && query !== "") {
        this.#lists.delete(other);
      }
    }
    if (tag !== null) {
      this.#lists.set(query, { tag, contacts });
    }
    return contacts;
  }

  /**
   * Gives all who have a telephone number or an extension; an empty array where nobody has.
   *
   * @param {string} number
   * @returns {Promise<Contact[]>}
   */
  async lookup(number) {
    const path = `contacts/lookup?${formOf({ number })}`;
    return (await this.#send(path)).data.contacts;
  }

  /**
   * Gives the calls of the extension, the oldest first, and the server's time in milliseconds (NaN
   * where it does not tell), by which the times in them are to be understood.
   *
   * @returns {Promise<{calls: Call[], now: number}>}
   */
  async calls() {
    const { response, data } = await this.#send("calls");
    return { calls: data.calls, now: Date.parse(response.headers.get("Date") ?? "") };
  }

  /**
   * Makes a call. The MX rings the telephone of the extension, or calls from it at once.
   *
   * @param {string} to A number or an extension.
   * @param {{from?: string}} [options] `from`: the extension unless named.
   * @returns {Promise<{callId: number, deviceId: string, called: string}>}
   */
  async call(to, { from } = {}) {
    return (await this.#post("call", { to, from })).data.call;
  }

  /**
   * Answers a call that rings.
   *
   * @param {CallId} call
   * @returns {Promise<void>}
   */
  answer(call) {
    return this.#command("answer", call);
  }

  /**
   * Leaves a call, or rejects one that rings.
   *
   * @param {CallId} call
   * @returns {Promise<void>}
   */
  hangup(call) {
    return this.#command("hangup", call);
  }

  /**
   * Puts a call on hold.
   *
   * @param {CallId} call
   * @returns {Promise<void>}
   */
  hold(call) {
    return this.#command("hold", call);
  }

  /**
   * Takes a call back from hold.
   *
   * @param {CallId} call
   * @returns {Promise<void>}
   */
  retrieve(call) {
    return this.#command("retrieve", call);
  }

  /**
   * Hands an answered call on, unannounced.
   *
   * @param {CallId} call
   * @param {string} destination A number or an extension.
   * @returns {Promise<void>}
   */
  transfer(call, destination) {
    return this.#command("transfer", call, { destination });
  }

  /**
   * Joins a held call and an active one; the own extension leaves.
   *
   * @param {CallId} held
   * @param {CallId} active
   * @returns {Promise<void>}
   */
  consultTransfer(held, active) {
    const { callId: activeCallId, deviceId: activeDeviceId } = active;
    return this.#command("transfer/consult", held, { activeCallId, activeDeviceId });
  }

  /**
   * Sends a call that rings elsewhere.
   *
   * @param {CallId} call
   * @param {string} destination A number or an extension.
   * @returns {Promise<void>}
   */
  deflect(call, destination) {
    return this.#command("deflect", call, { destination });
  }

  /**
   * Parks a call; the place comes as `ParkedEvent`.
   *
   * @param {CallId} call
   * @returns {Promise<void>}
   */
  park(call) {
    return this.#command("park", call);
  }

  /**
   * Begins to record a call.
   *
   * @param {CallId} call
   * @returns {Promise<void>}
   */
  startRecording(call) {
    return this.#command("record/start", call);
  }

  /**
   * Ends the recording of a call.
   *
   * @param {CallId} call
   * @returns {Promise<void>}
   */
  stopRecording(call) {
    return this.#command("record/stop", call);
  }

  /**
   * Gives what opens one event stream (`/api/events?ticket=…`) within 30 seconds, for whatever
   * cannot set headers. `connect` needs none.
   *
   * @returns {Promise<string>}
   */
  async ticket() {
    return (await this.#post("ticket")).data.ticket;
  }

  // --- Events ------------------------------------------------------------------------------------

  /**
   * Opens a stream of events, which stays open until it is closed or the session is over.
   *
   * @param {object} [options]
   * @param {string[]} [options.topics] Of `calls`, `contacts` and `status`; `calls` by default.
   * @param {string} [options.lastEventId] The event after which to go on; else with what comes.
   * @param {boolean} [options.shared] Whether tabs of this origin may share one connection, which
   *   is the default.
   * @returns {Stream}
   */
  connect({ topics = ["calls"], lastEventId = "", shared = true } = {}) {
    if (this.#over.signal.aborted) {
      throw new Abandoned();
    }
    const named = [...new Set(topics)].sort().join(",");
    const ask = async (position, over, limit) => {
      const headers = { Accept: "text/event-stream" };
      if (position !== "") {
        headers["Last-Event-ID"] = position;
      }
      const path = `events?${new URLSearchParams({ topics: named })}`;
      return (await this.#send(path, { headers, over, limit, open: true })).response;
    };
    const { mx } = claimsOf(this.#token);
    const shares = `mxflex ${SHARING} ${this.#base} ${mx} ${this.extension} ${named}`;
    return new Stream(ask, shared ? shares : null, String(lastEventId), (end) => {
      this.#streams.add(end);
      return () => this.#streams.delete(end);
    });
  }
}

// --- Server-Sent Events --------------------------------------------------------------------------

/**
 * Reads the bytes of an event stream (WHATWG HTML, 9.2.6), however they are split.
 *
 * `event` gets `{name, id, text}`; `id` the id after each block that has changed it; `comment` the
 * text of each comment, `retry` the milliseconds of each `retry`.
 */
export class EventParser {
  #hears;
  #decoder = new TextDecoder();
  #rest = "";
  #afterReturn = false;
  #name = "";
  #data = "";
  #id;
  #lastId;

  /**
   * @param {{event?: Function, id?: Function, comment?: Function, retry?: Function}} hears
   * @param {string} [lastEventId] The id of events that have none of their own, at the beginning.
   */
  constructor(hears, lastEventId = "") {
    this.#hears = hears;
    this.#id = this.#lastId = lastEventId;
  }

  /** @param {Uint8Array} bytes The next bytes. What is not ended by a blank line is no event. */
  feed(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") {
      return;
    }
    if (this.#afterReturn && text.startsWith("\n")) {
      text = text.slice(1);
    }
    this.#afterReturn = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    for (const line of lines) {
      this.#take(line);
    }
  }

  #take(line) {
    if (line === "") {
      this.#dispatch();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) {
      this.#hears.comment?.(line.slice(1));
      return;
    }
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    switch (field) {
      case "event":
        this.#name = value;
        break;
      case "data":
        this.#data += `${value}\n`;
        break;
      case "id":
        if (!value.includes("\0")) {
          this.#id = value;
        }
        break;
      case "retry":
        if (/^[0-9]+$/.test(value)) {
          this.#hears.retry?.(Number(value));
        }
        break;
      default:
    }
  }

  #dispatch() {
    const [name, data] = [this.#name, this.#data];
    this.#name = this.#data = "";
    const moved = this.#id !== this.#lastId;
    this.#lastId = this.#id;
    if (data !== "") {
      this.#hears.event?.({ name: name || "message", id: this.#id, text: data.slice(0, -1) });
    } else if (moved) {
      this.#hears.id?.(this.#id);
    }
  }
}

/**
 * A connection to the server's events that comes back whenever it is lost.
 *
 * `hears.state` gets each state with what is to be said of it, `hears.event` each event with the id
 * before it, `hears.id` each id without an event, `hears.comment` is called at each comment. After the
 * state `ended`, which comes where the server will not give what is asked for, it does nothing more.
 */
class Line {
  #ask;
  #hears;
  #position;
  #over = new AbortController();
  #failures = 0;
  #retry = FIRST_RETRY_MS;
  #unwatch;
  /** The longest time between two comments so far, in milliseconds; 0: not known. */
  #interval = 0;
  /** How often the next connection is opened in haste. */
  #hasty = 0;
  /** How often this connection has said when to come back. */
  #retries = 0;
  /** When it was asked at once why the server has ended a stream, and what tells that it waits. */
  #askedAt = -Infinity;
  #asking;
  /** Takes a hint while there is a connection, or while the time for the next one is waited for. */
  #hint = null;

  constructor(ask, position, hears) {
    this.#ask = ask;
    this.#position = position;
    this.#hears = hears;
    this.#unwatch = watch((what) => this.wake(what));
    this.#run();
  }

  close() {
    this.#unwatch();
    this.#over.abort();
    clearTimeout(this.#asking);
    this.#hint?.("closed");
  }

  /**
   * Takes a hint that things may be other than they were: `online`, `offline`, `awake`; `asked`,
   * when somebody wants to know; `tick`, where timers cannot be relied on.
   */
  wake(what) {
    this.#hint?.(what);
  }

  async #run() {
    for (;;) {
      let error = null;
      let how = "later";
      try {
        how = await this.#listen();
      } catch (caught) {
        error = caught;
      }
      if (this.#over.signal.aborted || error?.status === 401) {
        return;
      }
      if (lasting.has(error)) {
        this.#hears.state("ended", { error });
        return;
      }
      if (how === "haste") {
        this.#hears.state("reconnecting", {});
        this.#hasty = HASTY_TRIES;
        continue;
      }
      if (how === "ask" && Math.abs(Date.now() - this.#askedAt) > ASKED_MS) {
        this.#askedAt = Date.now();
        this.#asking = setTimeout(() => this.#hears.state("reconnecting", {}), GRACE_MS);
        continue;
      }
      if (this.#hasty > 0) {
        this.#hasty -= 1;
        continue;
      }
      this.#failures += 1;
      await this.#recover(error);
      if (this.#over.signal.aborted) {
        return;
      }
    }
  }

  /** Says what is wrong, and waits until it may be better. */
  async #recover(error) {
    const backOff = Math.min(this.#retry * 2 ** (this.#failures - 1), LAST_RETRY_MS);
    const asked = (error?.retryAfter ?? 0) * 1000;
    // A server that stops may well say a minute; it means the first attempt.
    const wait = spread(Math.max(this.#failures === 1 ? this.#retry : backOff, asked));
    const retryAt = Date.now() + wait;
    this.#hears.state(troubleOf(error), { error, retryAt });
    if (this.#over.signal.aborted) {
      return;
    }
    await new Promise((done) => {
      const timer = setTimeout(done, wait);
      this.#hint = (what) => {
        // A server that names a time is not asked sooner.
        const worthwhile = asked === 0 && ["online", "awake", "asked"].includes(what);
        if (worthwhile || what === "closed" || Date.now() >= retryAt) {
          clearTimeout(timer);
          done();
        }
      };
    });
    this.#hint = null;
  }

  /** Opens a connection; there is no haste any more once the server has said anything. */
  async #open(signal) {
    const limit = this.#hasty > 0 ? HASTY_MS : OPENING_MS;
    try {
      const response = await this.#ask(this.#position, signal, limit);
      this.#hasty = 0;
      return response;
    } catch (error) {
      if (error instanceof Refused) {
        this.#hasty = 0;
      }
      throw error;
    } finally {
      clearTimeout(this.#asking);
    }
  }

  /**
   * Has one connection until its end. Gives when the next one should come: `later`; in `haste`, where
   * the connection has died; at once to `ask` why it has ended, where the server has ended it without
   * a word, as it does when the person signs out.
   */
  async #listen() {
    const ended = new AbortController();
    let how = "later";
    const leave = (next) => {
      how = next;
      ended.abort();
    };
    this.#retries = 0;
    let watchdog = null;
    this.#hint = (what) => {
      if (what === "online") {
        // Whatever was open goes through a network that is gone.
        leave("haste");
      } else if (what === "offline") {
        leave("later");
      } else {
        watchdog?.hint(what);
      }
    };
    try {
      const signal = AbortSignal.any([this.#over.signal, ended.signal]);
      const response = await this.#open(signal);
      const type = response.headers.get("Content-Type") ?? "";
      if (!/^text\/event-stream\s*(;|$)/i.test(type)) {
        await response.body?.cancel();
        throw new Unreachable(NOT_MXFLEX);
      }
      watchdog = new Watchdog(this.#interval, () => leave("haste"));
      this.#hears.state("live", {});
      const parser = this.#parser(watchdog);
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) {
          // The first is at its beginning; one more comes from a server that stops.
          return this.#retries > 1 ? "later" : "ask";
        }
        watchdog.heard();
        parser.feed(value);
      }
    } catch (error) {
      if (error instanceof Refused) {
        throw error;
      }
      if (ended.signal.aborted) {
        return how;
      }
      throw error instanceof Unreachable ? error : new Unreachable("the connection is lost");
    } finally {
      watchdog?.stop();
      this.#hint = null;
    }
  }

  #parser(watchdog) {
    // Whoever hears something may close the line; nothing that came with it is told then.
    const unlessOver = (tell) => (what) => this.#over.signal.aborted || tell(what);
    const hears = {
      event: unlessOver((event) => {
        const before = this.#position;
        this.#position = event.id;
        this.#hears.event({ ...event, at: Date.now() }, before);
      }),
      id: unlessOver((id) => {
        this.#position = id;
        this.#hears.id(id);
      }),
      comment: unlessOver(() => {
        this.#interval = watchdog.commented();
        this.#hears.comment();
      }),
      retry: (milliseconds) => {
        this.#retries += 1;
        this.#retry = Math.min(Math.max(milliseconds, LEAST_RETRY_MS), LONGEST_WAIT_MS);
        // Whoever says this is MXFlex, and well.
        this.#failures = 0;
      },
    };
    return new EventParser(hears, this.#position);
  }
}

/**
 * Notices that a connection is dead: nothing comes on it any more, not even comments.
 *
 * Calls `bite` once. `interval` is the longest time between two comments so far, in milliseconds;
 * 0 if there was none.
 */
class Watchdog {
  #interval;
  #bite;
  #heardAt = Date.now();
  #commentedAt = Date.now();
  /** Whether the timer was late already, and nothing has come since. */
  #wasLate = false;
  #timer;

  constructor(interval, bite) {
    this.#interval = interval;
    this.#bite = bite;
    this.#look();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#bite = () => {};
  }

  heard() {
    this.#heardAt = Date.now();
    this.#wasLate = false;
  }

  /** Takes note of a comment; gives the longest time between two. */
  commented() {
    const now = Date.now();
    this.#interval = Math.max(this.#interval, now - this.#commentedAt);
    this.#commentedAt = now;
    // How long to wait for the next one is known better now.
    this.#look();
    return this.#interval;
  }

  /** Takes a hint: `awake`, or `tick` where timers are slow. */
  hint(what) {
    if (what === "tick") {
      this.#look(SILENT_INTERVALS, true);
    } else if (what === "awake") {
      clearTimeout(this.#timer);
      // What has come meanwhile is yet to be read.
      this.#timer = setTimeout(() => this.#look(SUSPICIOUS_INTERVALS), GRACE_MS);
    }
  }

  #look(intervals = SILENT_INTERVALS, late = false) {
    clearTimeout(this.#timer);
    const limit = Math.min(intervals * this.#interval || LONGEST_SILENCE_MS, LONGEST_SILENCE_MS);
    if (Date.now() < this.#heardAt) {
      // The clock was set.
      this.heard();
    }
    const silence = Date.now() - this.#heardAt;
    let wait = Math.max(limit - silence, GRACE_MS);
    if (silence >= limit) {
      if (!late || this.#wasLate) {
        this.#bite();
        return;
      }
      this.#wasLate = true;
      wait = GRACE_MS;
    }
    const due = Date.now() + wait;
    this.#timer = setTimeout(
      () => this.#look(SILENT_INTERVALS, Date.now() - due > GRACE_MS),
      wait,
    );
  }
}

/** Gives the state of a stream that could not be opened, or was lost (no error). */
function troubleOf(error) {
  const status = error instanceof Refused ? error.status : 0;
  if (status === 403) {
    return "not-monitored";
  }
  if (status >= 400 && status < 500) {
    return "refused";
  }
  return globalThis.navigator?.onLine === false ? "offline" : "reconnecting";
}

// --- Tabs ----------------------------------------------------------------------------------------

/** Tells whether an event id is greater than another; `""` is before all. */
function isAfter(one, other) {
  if (/^\d+$/.test(one) && /^\d+$/.test(other)) {
    return BigInt(one) > BigInt(other);
  }
  return one !== "" && one !== other;
}

/** An error as tabs can send it to each other, and back. */
function packed(error) {
  return error && { ...error, kind: error.name, message: error.message };
}

function unpacked(error) {
  if (error?.kind === "Refused") {
    return new Refused(error.message, error.status, error.retryAfter);
  }
  return error && new Unreachable(error.message);
}

/**
 * What a tab has to do with a stream that tabs share.
 *
 * One tab, which holds a lock, leads: it has the line and tells the others all that comes. A tab
 * that joins, or finds that it has missed something, says up to where it has come, and the leader
 * gives it the rest. When the leader goes, the lock goes to another, which goes on from what it has
 * seen itself. A leader is known by its term, so that nobody listens to two.
 */
class Share {
  #ask;
  #name;
  #hears;
  #channel;
  #me = crypto.randomUUID();
  #closed = false;
  /** Who leads: a number that grows; 0: nobody is known. */
  #term = 0;
  #line = null;
  /** Ends the leadership; null while another tab leads. */
  #stepDown = null;
  #competing = null;
  #joining = true;
  #catching = null;
  #state = { state: "connecting", said: {} };
  #position;
  /** The gap after which ids begin anew; they may be smaller than before. */
  #epoch = "";
  #kept = [];
  /** All events after this id are kept. */
  #keptFrom = "";
  #status = null;
  #unanswered = 0;
  #heardLeader = Date.now();
  #timer;
  #unwatch;
  #listeners = new AbortController();

  constructor(ask, name, position, hears) {
    this.#ask = ask;
    this.#name = name;
    this.#position = this.#keptFrom = position;
    this.#hears = hears;
    this.#channel = new BroadcastChannel(name);
    this.#channel.addEventListener("message", ({ data }) => this.#receive(data));
    this.#timer = setInterval(() => this.#watchLeader(), LEADER_MS);
    this.#unwatch = watch((what) => {
      // Somebody looks at this tab; the one that leads may be hidden, and slow therefore.
      if (what === "awake" && !this.leads) {
        this.#post({ type: "wake" });
      }
    });
    const { signal } = this.#listeners;
    const page = globalThis.document;
    page?.addEventListener("freeze", () => this.#retire(), { signal });
    page?.addEventListener("resume", () => this.#enter(), { signal });
    globalThis.addEventListener?.("pagehide", () => this.#retire(), { signal });
    globalThis.addEventListener?.("pageshow", () => this.#enter(), { signal });
    this.#enter();
  }

  get leads() {
    return this.#stepDown !== null;
  }

  close() {
    this.#closed = true;
    this.#listeners.abort();
    this.#unwatch();
    clearInterval(this.#timer);
    this.#retire();
    this.#catching?.close();
    this.#channel.close();
  }

  #post(message) {
    if (!this.#closed) {
      this.#channel.postMessage(message);
    }
  }

  // --- Who leads ---------------------------------------------------------------------------------

  #enter() {
    if (!this.leads) {
      this.#compete();
      this.#join();
    }
  }

  /** Leads as soon as nobody else does, or now. */
  async #compete(now = false) {
    if (this.#closed || this.leads || (this.#competing !== null && !now)) {
      return;
    }
    this.#competing?.abort();
    const competing = new AbortController();
    this.#competing = competing;
    const how = now ? { steal: true } : { signal: competing.signal };
    try {
      await navigator.locks.request(this.#name, how, () => this.#lead(competing));
    } catch (error) {
      // Else it was given up, or taken away from a tab that did not answer.
      if (error.name === "SecurityError" && this.#competing === competing) {
        // Where nothing may be stored there are no locks, and no other tabs either.
        this.#lead(competing);
        return;
      }
    }
    if (this.#competing === competing) {
      this.#competing = null;
      if (this.leads) {
        this.#follow();
        this.#enter();
      }
    }
  }

  /** Gives up leading, and waiting for it: the tab is about to stand still, or to go. */
  #retire() {
    this.#competing?.abort();
    this.#competing = null;
    if (this.leads) {
      this.#follow();
    }
    this.#joining = true;
  }

  #follow() {
    const stepDown = this.#stepDown;
    this.#stepDown = null;
    this.#line.close();
    this.#line = null;
    stepDown();
  }

  #lead(competing) {
    if (competing.signal.aborted) {
      return undefined;
    }
    const leading = new Promise((stepDown) => {
      this.#stepDown = stepDown;
    });
    this.#term = Math.max(this.#term + 1, Date.now());
    this.#joining = false;
    this.#catching?.close();
    this.#catching = null;
    this.#post({ type: "leader", term: this.#term });
    if (this.#state.state !== "connecting") {
      this.#tellState("reconnecting", {});
    }
    this.#line = new Line(this.#ask, this.#position, {
      state: (state, said) => this.#tellState(state, said),
      event: (event, before) => {
        const entry = { event, before, anew: isAnew(event) };
        this.#post({ type: "event", term: this.#term, entry });
        this.#accept(entry);
      },
      id: (id) => {
        this.#post({ type: "id", term: this.#term, id, before: this.#position });
        this.#move(id);
      },
      comment: () => this.#post({ type: "alive", term: this.#term }),
    });
    return leading;
  }

  #tellState(state, { error, retryAt }) {
    this.#post({ type: "state", term: this.#term, state, said: { error: packed(error), retryAt } });
    this.#show(state, { error, retryAt });
  }

  #show(state, said) {
    this.#state = { state, said };
    this.#hears.state(state, said);
  }

  /** Asks a leader that is not heard for a sign of life; takes its place when there is none. */
  #watchLeader() {
    if (this.leads || this.#closed || Date.now() - this.#heardLeader < LEADER_MS) {
      return;
    }
    if (this.#unanswered >= UNANSWERED) {
      this.#unanswered = 0;
      this.#compete(true);
      return;
    }
    this.#unanswered += 1;
    if (this.#joining && this.#catching === null) {
      this.#join();
    } else {
      this.#post({ type: "ask" });
    }
  }

  // --- What is said among tabs -------------------------------------------------------------------

  #join() {
    this.#joining = true;
    if (this.#catching === null) {
      this.#post({
        type: "join",
        from: this.#me,
        position: this.#position,
        epoch: this.#epoch,
      });
    }
  }

  #receive(message) {
    if (this.#closed) {
      return;
    }
    if (this.leads) {
      if (message.type === "join") {
        this.#welcome(message);
      } else if (message.type === "ask") {
        this.#line.wake("tick");
        this.#post({ type: "alive", term: this.#term });
      } else if (message.type === "wake") {
        this.#line.wake("awake");
      }
      return;
    }
    if (!(message.term >= this.#term)) {
      // From a tab to the leader, or from one that does not lead any more.
      return;
    }
    this.#heardLeader = Date.now();
    this.#unanswered = 0;
    if (message.type === "welcome") {
      if (message.to === this.#me && this.#joining) {
        this.#term = message.term;
        this.#joined(message);
      }
    } else if (message.term > this.#term) {
      this.#term = message.term;
      this.#join();
    } else if (!this.#joining) {
      this.#hear(message);
    }
  }

  #hear({ type, ...message }) {
    if (type === "state") {
      const { error, retryAt } = message.said;
      this.#show(message.state, { error: unpacked(error), retryAt });
    } else if (type === "event") {
      this.#hearEvent(message.entry);
    } else if (type === "id") {
      if (isAfter(message.before, this.#position)) {
        this.#join();
      } else if (isAfter(message.id, this.#position)) {
        this.#move(message.id);
      }
    }
  }

  #hearEvent(entry) {
    const { event, before, anew } = entry;
    if (!anew && isAfter(before, this.#position)) {
      // Something between is missing.
      this.#join();
    } else if (anew || event.id === before || isAfter(event.id, this.#position)) {
      this.#accept(entry);
    }
  }

  /** Gives a tab what it lacks, and how things stand. */
  #welcome({ from, position, epoch }) {
    // Somebody may have signed in again.
    this.#line.wake("asked");
    let missed = [];
    if (position !== "") {
      const fits = !isAfter(this.#epoch, position) && !isAfter(position, this.#position);
      if (epoch !== this.#epoch && !fits) {
        missed = this.#kept[0]?.anew ? this.#kept : null;
      } else if (isAfter(this.#keptFrom, position)) {
        missed = null;
      } else {
        missed = this.#kept.filter(({ event }) => isAfter(event.id, position));
      }
    }
    const { state, said } = this.#state;
    this.#post({
      type: "welcome",
      to: from,
      term: this.#term,
      missed,
      position: this.#position,
      epoch: this.#epoch,
      status: this.#status,
      state,
      said: { ...said, error: packed(said.error) },
    });
  }

  #joined(welcome) {
    if (welcome.missed === null) {
      this.#catchUp(welcome);
      return;
    }
    this.#joining = false;
    const { error, retryAt } = welcome.said;
    this.#show(welcome.state, { error: unpacked(error), retryAt });
    for (const entry of welcome.missed) {
      if (entry.anew || isAfter(entry.event.id, this.#position)) {
        this.#accept(entry);
      }
    }
    if (welcome.status !== null && welcome.status.text !== this.#status?.text) {
      // The server says it to each stream that begins; no other event need have told of it.
      this.#status = welcome.status;
      this.#hears.event(welcome.status);
    }
    this.#arrive(welcome);
  }

  #arrive({ position, epoch }) {
    if (epoch !== this.#epoch || isAfter(position, this.#position)) {
      this.#move(position);
    }
    this.#epoch = epoch;
  }

  /** Asks the server for what the leader does not have any more. */
  #catchUp(welcome) {
    const done = () => {
      if (this.#catching === null) {
        return;
      }
      this.#catching.close();
      this.#catching = null;
      this.#arrive(welcome);
      this.#join();
    };
    const check = () => isAfter(welcome.position, this.#position) || done();
    this.#catching = new Line(this.#ask, this.#position, {
      state: (state, said) => state === "ended" && this.#show(state, said),
      event: (event, before) => {
        const entry = { event, before, anew: isAnew(event) };
        if (entry.anew || event.id === before || isAfter(event.id, this.#position)) {
          this.#accept(entry);
        }
        check();
      },
      id: (id) => {
        this.#move(id);
        check();
      },
      // The server says so only behind all that was missed.
      comment: done,
    });
  }

  // --- What has come -----------------------------------------------------------------------------

  #accept(entry) {
    const { event, before, anew } = entry;
    if (event.name === "status") {
      this.#status = event;
    }
    if (anew) {
      this.#epoch = event.id;
      this.#kept = [entry];
      this.#keptFrom = event.id;
    } else if (event.id !== before) {
      this.#keep(entry);
    }
    this.#position = event.id;
    this.#hears.event(event);
  }

  #keep(entry) {
    if (this.#keptFrom === "") {
      this.#keptFrom = entry.event.id;
      return;
    }
    this.#kept.push(entry);
    if (this.#kept.length > KEPT_EVENTS) {
      this.#keptFrom = this.#kept.shift().event.id;
    }
  }

  /** Goes on from an id that no event has. */
  #move(id) {
    this.#keptFrom ||= id;
    this.#position = id;
    this.#hears.id(id);
  }
}

/** Tells whether the server says that it does not know the id from which one came. */
function isAnew({ name, text }) {
  return name === "gap" && parsed(text)?.reason === "unknown-id";
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// --- Streams -------------------------------------------------------------------------------------

/**
 * How a stream is.
 *
 * - `connecting`: for the first time
 * - `live`
 * - `reconnecting`: it was lost, or the server could not be asked
 * - `offline`: so it was, and this machine has no network
 * - `not-monitored`: the person has signed out elsewhere; it is tried again
 * - `refused`: the server does not want it now, as when too many are open
 * - `ended`: it is closed, or the session is over; or the server does not give such a stream at all
 *
 * @typedef {"connecting" | "live" | "reconnecting" | "offline" | "not-monitored" | "refused" |
 *   "ended"} StreamState
 */

/**
 * The events of an extension, from `Session.connect`. What is lost with a connection comes with the
 * next one; where the server has not kept it, `gap` says so. Events:
 * - each of the server's by its own name (docs/api.md, "Events"); `detail` is its data
 * - `event`: each of them, and those of unknown names; `detail` is `{name, id, text, data, at}`
 * - `state`: `detail` is `{state, retryAt?, error?}`: a `StreamState`, when the next attempt is due
 *   (milliseconds since the epoch), and what went wrong
 */
export class Stream extends EventTarget {
  #state = "connecting";
  #retryAt;
  #lastEventId;
  #source;
  #leave;

  /** @hideconstructor */
  constructor(ask, name, lastEventId, enlist) {
    super();
    this.#lastEventId = lastEventId;
    this.#leave = enlist((tell) => this.#end(tell));
    const hears = {
      state: (state, said) => {
        if (state === "ended") {
          this.#end(true, said);
        } else {
          this.#show(state, said);
        }
      },
      event: (event) => this.#dispatch(event),
      id: (id) => {
        this.#lastEventId = id;
      },
      comment: () => {},
    };
    // Both are there in secure contexts alone.
    const shared = name !== null && globalThis.navigator?.locks && globalThis.BroadcastChannel;
    const Source = shared ? Share : Line;
    this.#source = shared
      ? new Source(ask, name, lastEventId, hears)
      : new Source(ask, lastEventId, hears);
  }

  /** @type {StreamState} */
  get state() {
    return this.#state;
  }

  /** @type {string} The id of the latest event, to go on from; empty before the first. */
  get lastEventId() {
    return this.#lastEventId;
  }

  /** @type {boolean} Whether this tab has the connection itself, for others as well. */
  get leader() {
    return this.#state !== "ended" && (this.#source?.leads ?? true);
  }

  /** Ends it. Nothing is told any more. */
  close() {
    this.#end(false);
  }

  #end(tell, said = {}) {
    if (this.#state === "ended") {
      return;
    }
    this.#leave();
    this.#source.close();
    if (tell) {
      this.#show("ended", said);
    }
    this.#state = "ended";
  }

  #show(state, { error, retryAt }) {
    const isNews = state !== this.#state || retryAt !== this.#retryAt;
    if (this.#state === "ended" || !isNews) {
      return;
    }
    this.#state = state;
    this.#retryAt = retryAt;
    const detail = { state };
    if (retryAt !== undefined) {
      detail.retryAt = retryAt;
    }
    if (error) {
      detail.error = error;
    }
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  #dispatch({ name, id, text, at }) {
    if (this.#state === "ended") {
      return;
    }
    this.#lastEventId = id;
    const data = parsed(text);
    this.dispatchEvent(new CustomEvent("event", { detail: { name, id, text, data, at } }));
    if (name !== "event" && name !== "state" && this.#state !== "ended") {
      this.dispatchEvent(new CustomEvent(name, { detail: data }));
    }
  }
}
