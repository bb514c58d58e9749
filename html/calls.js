// My calls: a card for each, with what can be done with it. The server knows how the calls are; its
// events say when to ask.

import { $, arrange, attempt, copyOf, inTurn, mark, press } from "./dom.js";
import { duration, label, languages, t, tell, write } from "./language.js";
import { drawAvatar, nameOf } from "./people.js";

/** Events that are about no call. */
const OTHERS = new Set(["ContactEvent", "status"]);

/** Gives what a call is to the person who has it. */
export function phaseOf({ state, direction, answeredAt }) {
  const outgoing = direction === "outgoing";
  switch (state) {
    case "initiated":
      return "dialling";
    case "alerting":
      return outgoing ? "dialling" : "ringing";
    case "connected":
      return outgoing && !answeredAt ? "dialling" : "talking";
    case "hold":
      return "held";
    case "queued":
      return "queued";
    case "fail":
      return "failed";
    default:
      return "over";
  }
}

/** What may be done in which phase, the most pressing first; the buttons have these classes. */
const BUTTONS = {
  ringing: ["answer", "deflect", "hang-up"],
  talking: ["hold", "transfer", "park", "record", "hang-up"],
  dialling: ["hang-up"],
  queued: ["hang-up"],
  held: ["retrieve", "transfer", "hang-up"],
  failed: ["hang-up"],
};
const ORDER = Object.keys(BUTTONS);

/**
 * Fires `change` when the calls may be other ones, and `over` for each that has ended: `detail` is
 * the call as it was last, with `endedAt` and with what was done to it here (`declined`, `sentOn`).
 */
export class Calls extends EventTarget {
  #people;
  #picker;
  #session = null;
  #calls = new Map();
  /** Calls that events have told of, and no reading yet. */
  #begun = new Map();
  /** Calls that were handed on, of which there may still be events. */
  #left = new Set();
  #cards = new Map();
  #shown = new WeakMap();
  #done = new Map();
  #read = async () => {};
  #timer;
  #clockAhead = -Infinity;
  #loaded = false;
  /** Whether the server may know which calls there are. */
  #watched = true;

  constructor({ people, picker }) {
    super();
    this.#people = people;
    this.#picker = picker;
    for (const name of ["reset", "named", "contact"]) {
      people.addEventListener(name, () => this.#draw());
    }
    languages.addEventListener("change", () => this.#draw());
    $("parked-close").addEventListener("click", () => {
      $("parked").hidden = true;
      $("calls-title").focus();
    });
  }

  begin(session, stream) {
    this.#session = session;
    this.#loaded = false;
    this.#watched = true;
    this.#clockAhead = -Infinity;
    this.#read = inTurn(() => attempt($("calls-note"), () => this.#readCalls(session)));
    this.#timer = setInterval(() => this.#drawClocks(), 1000);
    stream.addEventListener("state", ({ detail: { state } }) => {
      if (state === "not-monitored" || state === "ended") {
        this.#watched = false;
        this.#forget();
      } else if (state === "live") {
        this.#watched = true;
      }
    });
    stream.addEventListener("event", ({ detail: { name, data } }) => {
      if (!OTHERS.has(name)) {
        this.#heard(name, data);
        this.#read();
      }
    });
    this.#draw();
  }

  end() {
    clearInterval(this.#timer);
    this.#session = null;
    $("parked").hidden = true;
    this.#forget();
  }

  /** Shows no calls: how they go on, and whether they have ended, is not known. */
  #forget() {
    for (const key of this.#calls.keys()) {
      if (this.#picker.isFor(key)) {
        this.#picker.close();
      }
    }
    this.#loaded = false;
    this.#calls = new Map();
    this.#begun = new Map();
    this.#left = new Set();
    this.#done = new Map();
    $("calls-note").replaceChildren();
    this.#draw();
  }

  /** Asks the server how the calls are. */
  refresh() {
    return this.#read();
  }

  /** Calls a number. */
  async call(number) {
    await this.#session.call(number);
    this.#read();
  }

  /** The calls that ring. */
  get ringing() {
    return [...this.#calls.values()].filter((call) => phaseOf(call) === "ringing");
  }

  /** Gives the number and the name of the other party, and the person where that is known. */
  party(call) {
    const me = this.#session?.extension;
    const incoming = call.direction
      ? call.direction === "incoming"
      : Boolean(call.callingDevice) && call.callingDevice !== me;
    const [number, told] = incoming
      ? [call.callingDevice, call.callingDisplayName]
      : [call.calledDevice ?? call.answeringDevice, call.answeringDisplayName];
    const contact = this.#people.whose(number);
    // Servers without a name for a party show its number as one.
    const name = contact ? nameOf(contact) : told === number ? "" : told;
    return { number: number ?? "", name: name || "", contact };
  }

  /** Tells whether more will not become known of who the other party is. */
  isNamed(call) {
    return this.#people.isSettled(this.party(call).number);
  }

  /** Gives how to call the other party. */
  title(call) {
    const { name, number } = this.party(call);
    return name || number || t("unknown");
  }

  // --- What the server says ----------------------------------------------------------------------

  /** Remembers calls that are over before they can be read: somebody who rings once is missed, too. */
  #heard(name, data) {
    if (name === "ParkedEvent") {
      tell($("parked-text"), "parked", { place: data.parkId });
      $("parked").hidden = false;
    }
    const key = String(data?.callId);
    if (name === "FailedEvent") {
      this.#done.set(key, { failed: true });
    }
    const begins = name === "DeliveredEvent" || name === "OriginatedEvent";
    if (begins && ![this.#calls, this.#begun, this.#left].some((known) => known.has(key))) {
      const now = new Date(this.#now()).toISOString();
      const outgoing = data.callingDevice === this.#session.extension;
      const direction = outgoing ? "outgoing" : "incoming";
      this.#begun.set(key, { ...data, direction, startedAt: now, since: now });
    }
  }

  async #readCalls(session) {
    if (!this.#watched) {
      return;
    }
    const begun = [...this.#begun.keys()];
    const { calls, now } = await session.calls();
    if (this.#session !== session || !this.#watched) {
      return;
    }
    this.#followClock(now - Date.now());
    this.#loaded = true;
    // Those that were handed on are no longer one's own, although the server remembers them.
    const kept = calls.filter((call) => phaseOf(call) !== "over");
    const after = new Map(kept.map((call) => [String(call.callId), call]));
    const told = new Map(calls.map((call) => [String(call.callId), call]));
    const before = new Map(this.#calls);
    for (const key of begun) {
      before.set(key, this.#begun.get(key));
      this.#begun.delete(key);
    }
    this.#calls = after;
    this.#left = new Set([...told.keys()].filter((key) => !after.has(key)));
    for (const [key, call] of before) {
      if (!after.has(key)) {
        this.#over(key, { ...call, ...told.get(key) });
      }
    }
    this.#draw();
  }

  #over(key, call) {
    const endedAt = call.state === "null" ? call.since : new Date(this.#now()).toISOString();
    const done = this.#done.get(key);
    this.#done.delete(key);
    if (this.#picker.isFor(key)) {
      this.#picker.close();
    }
    const { name, number, contact } = this.party(call);
    const detail = { ...call, ...done, endedAt, party: { name, number, contact } };
    this.dispatchEvent(new CustomEvent("over", { detail }));
  }

  /** Durations run by the server's clock, since that of this machine may be wrong. */
  #followClock(ahead) {
    // The server tells whole seconds, so it is ahead by up to a second more: of several answers the
    // largest is nearest. One far below means that a clock has been set.
    if (ahead > this.#clockAhead || ahead < this.#clockAhead - 2000) {
      this.#clockAhead = ahead;
    }
  }

  /** The time at the server, in milliseconds. */
  #now() {
    // Not finite before the first answer, or if there is no time in it.
    return Date.now() + (Number.isFinite(this.#clockAhead) ? this.#clockAhead : 0);
  }

  // --- The cards ---------------------------------------------------------------------------------

  #draw() {
    const list = $("calls");
    const hadFocus = list.contains(document.activeElement);
    const cards = new Map();
    for (const [key, call] of this.#calls) {
      const card = this.#cards.get(key) ?? this.#newCard(key);
      cards.set(key, card);
      this.#drawCard(card, call);
    }
    this.#cards = cards;
    const rank = (card) => ORDER.indexOf(card.dataset.phase);
    arrange(
      list,
      [...cards.values()].sort((one, other) => rank(one) - rank(other)),
    );
    $("no-calls").hidden = cards.size > 0 || !this.#loaded;
    const loading = this.#watched && !this.#loaded && $("calls-note").textContent === "";
    $("loading-calls").hidden = cards.size > 0 || !loading;
    $("unknown-calls").hidden = this.#watched;
    mark($("desk"), "calls", String(cards.size));
    if (hadFocus && !list.contains(document.activeElement)) {
      // Not to the top of the page, where the next press of Tab would begin.
      $("calls-title").focus();
    }
    this.#drawClocks();
    this.dispatchEvent(new Event("change"));
  }

  #newCard(key) {
    const card = copyOf("call-template");
    card.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button !== null) {
        this.#press(card, key, button);
      }
    });
    return card;
  }

  #drawCard(card, call) {
    const { name, number, contact } = this.party(call);
    const phase = phaseOf(call);
    const title = name || number || t("unknown");
    this.#shown.set(card, call);
    mark(card, "phase", phase);
    drawAvatar(card.querySelector(".avatar"), name, contact);
    write(card.querySelector(".name"), title);
    const about = [name ? number : "", call.recording ? t("recorded") : ""];
    write(card.querySelector(".party"), about.filter(Boolean).join(" · "));
    write(card.querySelector(".state"), t(phase));
    const focused = card.contains(document.activeElement) ? document.activeElement : null;
    this.#drawButtons(card, call, phase, title);
    if (focused?.hidden) {
      // Not to the one that hangs up, should somebody press twice.
      card.querySelector(".buttons > :not([hidden])").focus();
    }
  }

  #drawButtons(card, call, phase, title) {
    const other = phase === "held" ? this.#talking() : undefined;
    const wanted = new Set(BUTTONS[phase]);
    if (other !== undefined) {
      wanted.add("join");
      write(card.querySelector(".join-text"), t("join", { name: this.title(other) }));
    }
    const decline = phase === "ringing" ? "decline" : "hang-up";
    write(card.querySelector(".hang-up-text"), t(decline));
    for (const button of card.querySelectorAll(".buttons > button")) {
      const [name] = button.classList;
      button.hidden = !wanted.has(name);
      const key = name === "hang-up" ? decline : name;
      if (name !== "join") {
        // Several cards have the same buttons: for whom one listens to, they must differ.
        label(button, "for-call", { does: t(key), name: title });
      }
    }
    card.querySelector(".record").setAttribute("aria-pressed", String(Boolean(call.recording)));
  }

  #talking() {
    return [...this.#calls.values()].find((call) => phaseOf(call) === "talking");
  }

  #drawClocks() {
    const now = this.#now();
    for (const card of this.#cards.values()) {
      const call = this.#shown.get(card);
      const since = phaseOf(call) === "held" ? call.since : (call.answeredAt ?? call.startedAt);
      write(card.querySelector(".clock"), duration((now - Date.parse(since)) / 1000));
    }
  }

  // --- What is done with them --------------------------------------------------------------------

  async #press(card, key, button) {
    const session = this.#session;
    const call = this.#shown.get(card);
    const [name] = button.classList;
    if (name === "transfer" || name === "deflect") {
      this.#pick(key, call, name === "deflect");
      return;
    }
    const actions = {
      answer: () => session.answer(call),
      retrieve: () => session.retrieve(call),
      hold: () => session.hold(call),
      join: () => session.consultTransfer(call, this.#talking() ?? call),
      park: () => session.park(call),
      record: () => (call.recording ? session.stopRecording(call) : session.startRecording(call)),
      "hang-up": () => session.hangup(call),
    };
    if (name === "hang-up" && phaseOf(call) === "ringing") {
      this.#done.set(key, { declined: true });
    }
    const done = await press(button, card, actions[name]);
    if (!done) {
      this.#done.delete(key);
    }
    this.#read();
  }

  #pick(key, call, deflects) {
    const session = this.#session;
    this.#picker.open({
      callId: key,
      name: this.title(call),
      deflects,
      now: async (number) => {
        this.#done.set(key, { sentOn: true });
        try {
          await (deflects ? session.deflect(call, number) : session.transfer(call, number));
        } catch (error) {
          this.#done.delete(key);
          throw error;
        } finally {
          this.#read();
        }
      },
      ask: deflects || phaseOf(call) !== "talking" ? null : (number) => this.call(number),
    });
  }
}
