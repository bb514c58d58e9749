// The calls that have ended while the page is open, the latest first.

import { $, copyOf, mark, press } from "./dom.js";
import { duration, label, languages, t, timeOfDay, write } from "./language.js";
import { nameOf } from "./people.js";

const KEPT = 100;

/** The picture for each way in which a call can end. */
const ICONS = {
  incoming: "in",
  outgoing: "out",
  missed: "missed",
  declined: "missed",
  "sent-on": "transfer",
  unanswered: "out",
  unfinished: "out",
};

function outcomeOf(call) {
  if (call.sentOn) {
    return "sent-on";
  }
  if (call.direction === "outgoing") {
    return call.answeredAt ? "outgoing" : call.failed ? "unfinished" : "unanswered";
  }
  if (call.answeredAt) {
    return "incoming";
  }
  return call.declined ? "declined" : "missed";
}

export class Recent {
  #people;
  #call;
  #items = [];
  #missed = 0;

  constructor({ calls, people, call }) {
    this.#people = people;
    this.#call = call;
    calls.addEventListener("over", ({ detail }) => this.#add(detail));
    calls.addEventListener("change", () => {
      // Calls may have stood where the list is.
      if ($("recent").checkVisibility()) {
        this.seen();
      }
    });
    languages.addEventListener("change", () => this.#draw());
    people.addEventListener("named", () => this.#draw());
  }

  end() {
    this.#items = [];
    $("recent").replaceChildren();
    this.seen();
    this.#draw();
  }

  /** The person has seen the list. */
  seen() {
    this.#missed = 0;
    this.#drawMissed();
  }

  #add(call) {
    if (call.party.name === "" && call.party.number === "") {
      // It was under way when the watching began, and has ended without a word of who it was.
      return;
    }
    const item = copyOf("past-template");
    const entry = { call, item, outcome: outcomeOf(call) };
    const button = item.querySelector(".call");
    button.addEventListener("click", () => {
      press(button, item, () => this.#call(call.party.number));
    });
    this.#items.unshift(entry);
    $("recent").prepend(item);
    for (const old of this.#items.splice(KEPT)) {
      old.item.remove();
    }
    if (entry.outcome === "missed" && !$("recent").checkVisibility()) {
      this.#missed += 1;
      this.#drawMissed();
    }
    this.#draw();
  }

  #drawMissed() {
    const badge = $("missed-count");
    badge.hidden = this.#missed === 0;
    write(badge, String(this.#missed));
    label(badge, "missed-calls", { n: this.#missed });
  }

  #draw() {
    for (const { call, item, outcome } of this.#items) {
      const { number } = call.party;
      const contact = call.party.contact ?? this.#people.whose(number);
      const name = contact ? nameOf(contact) : call.party.name;
      const title = name || number;
      mark(item, "outcome", outcome);
      item.querySelector("use").setAttribute("href", `#i-${ICONS[outcome]}`);
      write(item.querySelector(".name"), title);
      const about = [t(outcome), name ? number : "", lengthOf(call)];
      write(item.querySelector(".about"), about.filter(Boolean).join(" · "));
      const time = item.querySelector("time");
      time.dateTime = call.startedAt;
      write(time, timeOfDay(new Date(call.startedAt)));
      const button = item.querySelector(".call");
      label(button, "call-person", { name: title });
      button.hidden = number === "";
    }
    $("no-recent").hidden = this.#items.length > 0;
  }
}

function lengthOf({ answeredAt, endedAt }) {
  return answeredAt ? duration((Date.parse(endedAt) - Date.parse(answeredAt)) / 1000) : "";
}
