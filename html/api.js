// The web API of MXFlex: requests, and the stream of events. Knows nothing of the page.

/** A request is given up after this time; commands may take the server some 7 seconds. */
const TIMEOUT_MS = 15_000;

/** Who signs out should not have to wait for a server that hangs. */
const LOGOUT_TIMEOUT_MS = 3_000;

/** While the server refuses the stream, it is asked again after so long; doubled up to the last. */
const FIRST_RETRY_MS = 2_000;
const LAST_RETRY_MS = 30_000;

/** An EventSource gives only events whose names it is told. */
export const EVENT_NAMES = [
  "ServiceInitiatedEvent",
  "OriginatedEvent",
  "NetworkReachedEvent",
  "DeliveredEvent",
  "EstablishedEvent",
  "HeldEvent",
  "RetrievedEvent",
  "DivertedEvent",
  "TransferredEvent",
  "ParkedEvent",
  "RecordingStateEvent",
  "FailedEvent",
  "ConnectionClearedEvent",
  "gap",
];

/** The server said no. `message` is the server's own text. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The server could not be asked, or did not answer. */
export class Unreachable extends Error {}

/** The session that asked is over, so the answer does not matter any more. */
export class Abandoned extends Error {}

async function send(path, options, signal, timeoutMs = TIMEOUT_MS) {
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(path, { ...options, signal: AbortSignal.any([signal, timeout]) });
    if (response.ok || response.status === 304) {
      return response;
    }
    throw new Refused(response.status, await errorText(response));
  } catch (error) {
    if (signal.aborted) {
      throw new Abandoned();
    }
    if (error instanceof Refused) {
      throw error;
    }
    throw new Unreachable(timeout.aborted ? "MXFlex does not answer" : "MXFlex cannot be reached");
  }
}

async function errorText(response) {
  // A proxy before MXFlex may have words of its own.
  const answer = await response.json().catch(() => null);
  return typeof answer?.error === "string" ? answer.error : `the server answered ${response.status}`;
}

/** Gives a token for a login and a password. */
export async function logIn(login, password) {
  const body = new URLSearchParams({ login, password });
  const response = await send("/api/login", { method: "POST", body }, new AbortController().signal);
  return (await response.json()).access_token;
}

/** The API with the token of one person. */
export class Api {
  #token;
  #over = new AbortController();
  #contactsTag = null;

  /** Throws when the text is no token at all. */
  constructor(token) {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(claims), (letter) => letter.charCodeAt(0));
    this.extension = JSON.parse(new TextDecoder().decode(bytes)).ext;
    this.#token = token;
  }

  #send(path, options = {}, timeoutMs = TIMEOUT_MS) {
    const headers = { ...options.headers, Authorization: `Bearer ${this.#token}` };
    return send(path, { cache: "no-store", ...options, headers }, this.#over.signal, timeoutMs);
  }

  async #read(response) {
    try {
      return await response.json();
    } catch {
      throw this.#over.signal.aborted ? new Abandoned() : new Unreachable("the answer broke off");
    }
  }

  #post(path, fields) {
    return this.#send(path, { method: "POST", body: new URLSearchParams(fields) });
  }

  /** Gives the directory; null when it is as it was the last time. */
  async contacts() {
    const headers = this.#contactsTag === null ? {} : { "If-None-Match": this.#contactsTag };
    const response = await this.#send("/api/contacts", { headers });
    if (response.status === 304) {
      return null;
    }
    const { contacts } = await this.#read(response);
    this.#contactsTag = response.headers.get("ETag");
    return contacts;
  }

  /** Gives the calls of this extension, and the server's time in milliseconds (NaN: unknown). */
  async calls() {
    const response = await this.#send("/api/calls");
    const { calls } = await this.#read(response);
    return { calls, now: Date.parse(response.headers.get("Date")) };
  }

  async dial(to) {
    await this.#post("/api/call", { to });
  }

  /** Does `answer`, `hold`, `retrieve` or `hangup` with a call. */
  async command(name, { callId, deviceId }) {
    await this.#post(`/api/call/${name}`, { callId, deviceId });
  }

  async logOut() {
    await this.#send("/api/logout", { method: "POST" }, LOGOUT_TIMEOUT_MS);
  }

  /** An EventSource cannot set headers, so the token stands in the query. */
  openEvents(lastEventId) {
    const query = new URLSearchParams({ access_token: this.#token });
    if (lastEventId) {
      query.set("lastEventId", lastEventId);
    }
    return new EventSource(`/api/events?${query}`);
  }

  /** Throws what the server has against a stream of events, if anything. */
  async checkEvents() {
    const response = await this.#send("/api/events", { headers: { Accept: "text/event-stream" } });
    await response.body.cancel();
  }

  /** Ends all requests of this person. */
  close() {
    this.#over.abort();
  }
}

/**
 * The events of an extension, for as long as it is open.
 *
 * `onState` gets `connecting`, `live`, `reconnecting` or `not-watched`; `onEvent` the name and the
 * JSON text of each event; `onRefused` the error when the token is not good any more.
 */
export class EventFeed {
  #api;
  #listener;
  #source = null;
  #timer;
  #retry = FIRST_RETRY_MS;
  #lastEventId = "";
  #closed = false;

  constructor(api, listener) {
    this.#api = api;
    this.#listener = listener;
    listener.onState("connecting");
    this.#open();
  }

  #open() {
    const source = this.#api.openEvents(this.#lastEventId);
    this.#source = source;
    source.addEventListener("open", () => {
      this.#retry = FIRST_RETRY_MS;
      this.#listener.onState("live");
    });
    source.addEventListener("error", () => this.#lost());
    for (const name of EVENT_NAMES) {
      source.addEventListener(name, (event) => {
        this.#lastEventId = event.lastEventId;
        this.#listener.onEvent(name, event.data);
      });
    }
  }

  async #lost() {
    if (this.#source.readyState !== EventSource.CLOSED) {
      // The browser comes back by itself, and says after which event it goes on.
      this.#listener.onState("reconnecting");
      return;
    }
    // The server has refused the stream, and an EventSource does not tell why.
    let state = "reconnecting";
    try {
      await this.#api.checkEvents();
    } catch (error) {
      if (error instanceof Abandoned) {
        return;
      }
      if (error.status === 401) {
        this.#listener.onRefused(error);
        return;
      }
      if (error.status === 403) {
        state = "not-watched";
      }
    }
    if (this.#closed) {
      return;
    }
    this.#listener.onState(state);
    this.#timer = setTimeout(() => this.#open(), this.#retry);
    this.#retry = Math.min(2 * this.#retry, LAST_RETRY_MS);
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#source.close();
  }
}
