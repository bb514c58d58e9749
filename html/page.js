// The page: draws what the API says, and passes on what the person wants.
//
// Whatever comes from the server goes into the page as text alone: a caller may choose any name.

import { Abandoned, Api, EventFeed, logIn, Refused, Unreachable } from "./api.js";

/** The directory and the calls are read again after so long, and whenever the page is looked at. */
const REFRESH_MS = 5_000;

/** Older events leave the list. */
const KEPT_EVENTS = 200;

/** Lives as long as the tab, and is seen by no other one. */
const TOKEN_KEY = "mxflex.token";

const SESSION_OVER = "Your session has ended. Please sign in again.";

const CONNECTION_WORDS = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  "not-watched": "Not watched",
};

const $ = (id) => document.getElementById(id);

/** What belongs to the person who is signed in; null when nobody is. */
let session = null;

/** The call that each card shows. */
const shownCalls = new WeakMap();

// --- Small things --------------------------------------------------------------------------------

/** Writes a text, unless it stands there: writing it again would take a reader's selection away. */
function write(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

function copyOf(template) {
  return $(template).content.firstElementChild.cloneNode(true);
}

/**
 * Makes the items of a list those of the values, in their order; items that stay keep the focus.
 *
 * Returns the items by key.
 */
function arrange(list, template, items, values, keyOf, prepare) {
  const kept = new Map();
  let place = list.firstElementChild;
  for (const value of values) {
    const key = keyOf(value);
    let item = items.get(key);
    if (item === undefined) {
      item = copyOf(template);
      prepare(item);
    }
    items.delete(key);
    kept.set(key, item);
    if (item === place) {
      place = place.nextElementSibling;
    } else {
      list.insertBefore(item, place);
    }
  }
  for (const item of items.values()) {
    item.remove();
  }
  return kept;
}

/** Makes a function that reads one at a time; asked meanwhile, it reads once more. */
function inTurn(read) {
  let reading = false;
  let again = false;
  return async () => {
    again = true;
    if (reading) {
      return;
    }
    reading = true;
    try {
      while (again) {
        again = false;
        await read();
      }
    } finally {
      reading = false;
    }
  };
}

/** Does something with the server; what goes wrong is told at its place. Tells whether it went. */
async function attempt(place, action) {
  try {
    await action();
    write(place, "");
    return true;
  } catch (error) {
    if (error instanceof Abandoned) {
      return false;
    }
    if (error instanceof Refused && error.status === 401) {
      endSession(SESSION_OVER);
      return false;
    }
    if (!(error instanceof Refused || error instanceof Unreachable)) {
      throw error;
    }
    write(place, error.message);
    return false;
  }
}

/** Does what a button says, unless it is doing so already. A disabled one would lose the focus. */
async function press(button, place, action) {
  if (button.getAttribute("aria-disabled") === "true") {
    return false;
  }
  button.setAttribute("aria-disabled", "true");
  try {
    return await attempt(place, action);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0
    ? `${hours}:${two(minutes)}:${two(whole % 60)}`
    : `${minutes}:${two(whole % 60)}`;
}

// --- Sign in and out -----------------------------------------------------------------------------

function storedToken() {
  try {
    return sessionStorage.getItem(TOKEN_KEY);
  } catch {
    return null;
  }
}

function storeToken(token) {
  try {
    if (token === null) {
      sessionStorage.removeItem(TOKEN_KEY);
    } else {
      sessionStorage.setItem(TOKEN_KEY, token);
    }
  } catch {
    // Without storage the session ends with the page.
  }
}

function beginSession(token) {
  const api = new Api(token);
  session = {
    api,
    directory: [],
    contacts: new Map(),
    calls: new Map(),
    ringing: new Set(),
    clockAhead: -Infinity,
    readContacts: inTurn(() => attempt($("directory-error"), () => readContacts(api))),
    readCalls: inTurn(() => attempt($("calls-error"), () => readCalls(api))),
    timers: [setInterval(refresh, REFRESH_MS), setInterval(drawDurations, 1000)],
  };
  $("my-name").textContent = "";
  $("my-ext").textContent = api.extension;
  $("sign-in").hidden = true;
  $("console").hidden = false;
  session.feed = new EventFeed(api, {
    onState: drawConnection,
    onEvent: drawEvent,
    onRefused: () => endSession(SESSION_OVER),
  });
  refresh();
}

/** Forgets the person and all that was shown to them. */
function endSession(word = "") {
  if (session !== null) {
    session.feed.close();
    session.api.close();
    session.timers.forEach(clearInterval);
    session = null;
  }
  storeToken(null);
  for (const list of ["contacts", "calls", "events"]) {
    $(list).replaceChildren();
  }
  for (const text of document.querySelectorAll("#console .error, #directory-count, #announcement")) {
    text.textContent = "";
  }
  $("filter").value = "";
  $("dial-form").reset();
  $("no-events").hidden = false;
  $("not-watched").hidden = true;
  $("console").hidden = true;
  $("sign-in").hidden = false;
  $("sign-in-error").textContent = "";
  $("sign-in-word").textContent = word;
  $("sign-in-word").hidden = word === "";
  $("login").focus();
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [login, password] = [$("login"), $("password")];
  let token;
  const done = await press($("sign-in-button"), $("sign-in-error"), async () => {
    token = await logIn(login.value, password.value);
  });
  if (!done) {
    password.select();
    return;
  }
  password.value = "";
  storeToken(token);
  beginSession(token);
  $("number").focus();
});

$("sign-out").addEventListener("click", async () => {
  const { api, feed } = session;
  await press($("sign-out"), $("calls-error"), async () => {
    // The server ends the stream; that must not look like a fault.
    feed.close();
    // Waited for, since a login that overtakes it would be undone by it. What it answers changes
    // nothing: who wants to go goes.
    await api.logOut().catch(() => {});
    if (session?.api === api) {
      endSession("You have signed out.");
    }
  });
});

$("sign-in-again").addEventListener("click", () => endSession());

// --- The connection ------------------------------------------------------------------------------

function drawConnection(state) {
  $("connection").dataset.state = state;
  write($("connection"), CONNECTION_WORDS[state]);
  $("not-watched").hidden = state !== "not-watched";
  if (state === "live") {
    // Things may have happened before the stream was open.
    refresh();
  }
}

function refresh() {
  if (!document.hidden) {
    session.readContacts();
    session.readCalls();
  }
}

function lookedAt() {
  if (session !== null) {
    refresh();
  }
}

window.addEventListener("focus", lookedAt);
document.addEventListener("visibilitychange", lookedAt);

// --- Directory -----------------------------------------------------------------------------------

function nameOf(contact) {
  return `${contact.firstName} ${contact.lastName}`.trim() || contact.ext || "No name";
}

/** `BeRightBack` -> `Be right back`. */
function presenceWords(status) {
  const words = status.replaceAll(/(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

async function readContacts(api) {
  const contacts = await api.contacts();
  if (contacts === null || session?.api !== api) {
    return;
  }
  session.directory = contacts;
  const me = contacts.find((contact) => contact.ext === api.extension);
  write($("my-name"), me === undefined ? "" : nameOf(me));
  session.contacts = arrange(
    $("contacts"),
    "contact-template",
    session.contacts,
    contacts,
    (contact) => contact.jid,
    prepareContact,
  );
  for (const contact of contacts) {
    drawContact(session.contacts.get(contact.jid), contact, contact === me);
  }
  filterContacts();
}

function prepareContact(item) {
  const button = item.querySelector(".call");
  const place = item.querySelector(".error");
  button.addEventListener("click", () => press(button, place, () => dial(item.dataset.ext)));
}

function drawContact(item, contact, isMe) {
  const name = nameOf(contact);
  const note = contact.note ?? "";
  const presence = contact.status ?? "";
  item.dataset.ext = contact.ext;
  item.dataset.presence = presence;
  item.dataset.words = [name, note, contact.ext, contact.homePhone, contact.cellPhone, contact.did]
    .join(" ")
    .toLocaleLowerCase();
  write(item.querySelector(".name"), isMe ? `${name} (you)` : name);
  write(item.querySelector(".presence"), presenceWords(presence));
  write(item.querySelector(".note"), note && presence ? `· ${note}` : note);
  write(item.querySelector(".ext"), contact.ext);
  write(item.querySelector(".call .unseen"), name);
  item.querySelector(".call").hidden = isMe || contact.ext === "";
}

function filterContacts() {
  const wanted = $("filter").value.toLocaleLowerCase().split(/\s+/);
  let shown = 0;
  for (const item of session.contacts.values()) {
    item.hidden = !wanted.every((word) => item.dataset.words.includes(word));
    shown += item.hidden ? 0 : 1;
  }
  const all = session.contacts.size;
  const people = all === 1 ? "1 person" : `${all} people`;
  write($("directory-count"), shown === all ? people : `${shown} of ${people}`);
}

$("filter").addEventListener("input", filterContacts);

// --- Calls ---------------------------------------------------------------------------------------

async function dial(number) {
  const { readCalls } = session;
  await session.api.dial(number);
  readCalls();
}

$("dial-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const number = $("number");
  if (await press($("dial-button"), $("dial-error"), () => dial(number.value.trim()))) {
    number.value = "";
  }
});

async function readCalls(api) {
  const { calls, now } = await api.calls();
  if (session?.api !== api) {
    return;
  }
  followClock(now - Date.now());
  const list = $("calls");
  const hadFocus = list.contains(document.activeElement);
  session.calls = arrange(
    list,
    "call-template",
    session.calls,
    calls,
    (call) => String(call.callId),
    prepareCall,
  );
  for (const call of calls) {
    drawCall(session.calls.get(String(call.callId)), call);
  }
  $("no-calls").hidden = calls.length > 0;
  if (hadFocus && !list.contains(document.activeElement)) {
    // Not to the top of the page, where the next press of Tab would begin.
    $("calls-title").focus();
  }
  announce(calls);
  drawDurations();
}

/** Durations run by the server's clock, since that of this machine may be wrong. */
function followClock(ahead) {
  // The server tells whole seconds, so it is ahead by up to a second more: of several answers the
  // largest is nearest. One far below means that a clock has been set.
  if (ahead > session.clockAhead || ahead < session.clockAhead - 2000) {
    session.clockAhead = ahead;
  }
}

function prepareCall(item) {
  const place = item.querySelector(".error");
  const commands = {
    answer: () => "answer",
    hold: (call) => (call.state === "hold" ? "retrieve" : "hold"),
    "hang-up": () => "hangup",
  };
  for (const [name, commandFor] of Object.entries(commands)) {
    const button = item.querySelector(`.${name}`);
    button.addEventListener("click", async () => {
      const { api, readCalls } = session;
      const call = shownCalls.get(item);
      await press(button, place, () => api.command(commandFor(call), call));
      readCalls();
    });
  }
}

/** Gives the number and the name of the other party; either may be empty. */
function otherParty(call) {
  const me = session.api.extension;
  const calling = [call.callingDevice ?? "", call.callingDisplayName ?? ""];
  const called = [
    call.calledDevice ?? call.answeringDevice ?? "",
    call.answeringDisplayName ?? "",
  ];
  const incoming = call.direction ? call.direction === "incoming" : calling[0] !== me;
  const [number, shownName] = incoming ? calling : called;
  const colleague = session.directory.find((contact) => contact.ext && contact.ext === number);
  // Servers without a name for a party show its number as one.
  const name = colleague ? nameOf(colleague) : shownName === number ? "" : shownName;
  return { number, name };
}

function stateWords(call) {
  const outgoing = call.direction === "outgoing";
  switch (call.state) {
    case "initiated":
      return "Dialling";
    case "alerting":
      return outgoing ? "Calling" : "Ringing";
    case "connected":
      return outgoing && !call.answeredAt ? "Calling" : "Talking";
    case "hold":
      return "On hold";
    case "queued":
      return "Queued";
    case "fail":
      return "Failed";
    default:
      return "Ending";
  }
}

function drawCall(item, call) {
  const { number, name } = otherParty(call);
  const words = stateWords(call);
  const held = call.state === "hold";
  shownCalls.set(item, call);
  item.dataset.state = words.toLowerCase().replace(" ", "-");
  write(item.querySelector(".name"), name || number || "Unknown party");
  write(item.querySelector(".quiet"), name ? number : "");
  write(item.querySelector(".state"), call.recording ? `${words} · recorded` : words);
  write(item.querySelector(".hold"), held ? "Resume" : "Hold");
  write(item.querySelector(".hang-up"), words === "Ringing" ? "Decline" : "Hang up");
  item.querySelector(".hang-up").hidden = words === "Ending";
  item.querySelector(".hold").hidden = words !== "Talking" && !held;
  const answer = item.querySelector(".answer");
  const hadFocus = document.activeElement === answer;
  answer.hidden = words !== "Ringing";
  if (hadFocus && answer.hidden) {
    item.querySelector(".hang-up").focus();
  }
}

/** Tells those who do not see the page of calls that have begun to ring. */
function announce(calls) {
  const ringing = calls.filter((call) => stateWords(call) === "Ringing");
  for (const call of ringing) {
    if (!session.ringing.has(call.callId)) {
      const { number, name } = otherParty(call);
      $("announcement").textContent = `Incoming call: ${name || number || "unknown party"}`;
    }
  }
  session.ringing = new Set(ringing.map((call) => call.callId));
}

function drawDurations() {
  // Not finite before the first answer, or if there is no time in it.
  const now = Date.now() + (Number.isFinite(session.clockAhead) ? session.clockAhead : 0);
  for (const item of session.calls.values()) {
    const { answeredAt, startedAt } = shownCalls.get(item);
    const since = Date.parse(answeredAt ?? startedAt);
    write(item.querySelector(".duration"), duration((now - since) / 1000));
  }
}

// --- Events --------------------------------------------------------------------------------------

function drawEvent(name, json) {
  const item = copyOf("event-template");
  const now = new Date();
  const time = item.querySelector("time");
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString("en-GB");
  item.querySelector(".name").textContent = name;
  item.querySelector("code").textContent = json;
  item.dataset.event = name;
  $("events").prepend(item);
  while ($("events").childElementCount > KEPT_EVENTS) {
    $("events").lastElementChild.remove();
  }
  $("no-events").hidden = true;
  session.readCalls();
  if (name === "gap") {
    session.readContacts();
  }
}

$("clear-events").addEventListener("click", () => {
  $("events").replaceChildren();
  $("no-events").hidden = false;
});

// --- Begin ---------------------------------------------------------------------------------------

const token = storedToken();
try {
  if (token === null) {
    endSession();
  } else {
    beginSession(token);
  }
} catch {
  // What is stored is no token.
  endSession();
}
