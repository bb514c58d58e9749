// The event inspector: the stream as it comes, for those who write programs for it.

import { $, copyOf, mark } from "./dom.js";
import { languages, tell, timeOfDay, write } from "./language.js";

/** Older events leave the list. */
const KEPT = 500;

function topicOf(name) {
  return { ContactEvent: "contacts", status: "status", gap: "status" }[name] ?? "calls";
}

/** Gives an event as it stood in the stream. */
function rawOf({ name, id, text }) {
  return `event: ${name}\ndata: ${text}\n${id ? `id: ${id}\n` : ""}\n`;
}

export class Inspector {
  #events = [];
  #items = new Map();
  #paused = false;
  #waiting = [];

  constructor() {
    $("events-filter").addEventListener("input", () => this.#filter());
    $("events-topic").addEventListener("change", () => this.#filter());
    $("events-pause").addEventListener("click", () => this.#pause(!this.#paused));
    $("events-clear").addEventListener("click", () => this.clear());
    $("events-copy").addEventListener("click", () => {
      copy([...this.#events].reverse().filter((event) => this.#fits(event)).map(rawOf).join(""));
    });
    // What is shown is made when it is looked at: most events are not.
    $("events").addEventListener("toggle", ({ target }) => this.#open(target), true);
    $("events").addEventListener("click", ({ target }) => {
      if (target.closest(".copy")) {
        copy(rawOf(this.#eventOf(target)));
      }
    });
    languages.addEventListener("change", () => {
      for (const [event, item] of this.#items) {
        write(item.querySelector("time"), timeOfDay(new Date(event.at), { seconds: true }));
      }
    });
  }

  begin(stream) {
    stream.addEventListener("event", ({ detail }) => this.#add(detail));
  }

  end() {
    $("events-filter").value = "";
    $("events-topic").value = "";
    this.#pause(false);
    this.clear();
  }

  clear() {
    this.#events = [];
    this.#waiting = [];
    this.#items = new Map();
    $("events").replaceChildren();
    this.#drawCount();
  }

  #add(event) {
    if (this.#paused) {
      this.#waiting.push(event);
      this.#waiting.splice(0, this.#waiting.length - KEPT);
    } else {
      this.#show(event);
    }
    this.#drawCount();
  }

  #show(event) {
    const item = copyOf("event-template");
    item.dataset.event = event.name;
    item.dataset.topic = topicOf(event.name);
    const time = item.querySelector("time");
    time.dateTime = new Date(event.at).toISOString();
    write(time, timeOfDay(new Date(event.at), { seconds: true }));
    write(item.querySelector(".name"), event.name);
    write(item.querySelector(".gist"), event.text);
    item.hidden = !this.#fits(event);
    this.#events.unshift(event);
    this.#items.set(event, item);
    $("events").prepend(item);
    for (const old of this.#events.splice(KEPT)) {
      this.#items.get(old).remove();
      this.#items.delete(old);
    }
  }

  #open(details) {
    const pre = details.querySelector("pre");
    if (details.open && pre.textContent === "") {
      const event = this.#eventOf(details);
      write(pre, event.data === undefined ? event.text : JSON.stringify(event.data, null, 2));
      write(details.querySelector(".event-id"), event.id && `id ${event.id}`);
    }
  }

  #eventOf(element) {
    const item = element.closest("li");
    return this.#events.find((event) => this.#items.get(event) === item);
  }

  #fits({ name, text }) {
    const topic = $("events-topic").value;
    const wanted = $("events-filter").value.trim().toLowerCase().split(/\s+/);
    const line = `${name} ${text}`.toLowerCase();
    return (topic === "" || topic === topicOf(name)) && wanted.every((word) => line.includes(word));
  }

  #filter() {
    for (const [event, item] of this.#items) {
      item.hidden = !this.#fits(event);
    }
    this.#drawCount();
  }

  #pause(paused) {
    this.#paused = paused;
    $("events-pause").setAttribute("aria-pressed", String(paused));
    if (!paused) {
      for (const event of this.#waiting.splice(0)) {
        this.#show(event);
      }
    }
    this.#drawCount();
  }

  #drawCount() {
    const n = this.#events.length;
    const shown = this.#events.filter((event) => !this.#items.get(event).hidden).length;
    const count = $("events-count");
    if (this.#paused) {
      tell(count, "event-waiting", { n: this.#waiting.length });
    } else if (n === 0) {
      write(count, "");
    } else if (shown < n) {
      tell(count, "event-count-of", { n, shown });
    } else {
      tell(count, "event-count", { n });
    }
    mark(count, "paused", String(this.#paused));
    $("no-events").hidden = shown > 0;
    tell($("no-events"), n > 0 ? "no-events-found" : "no-events");
  }
}

async function copy(text) {
  const word = $("events-word");
  try {
    await navigator.clipboard.writeText(text);
    tell(word, "copied");
  } catch {
    tell(word, "not-copied");
  }
  mark(word, "shown", "true");
  setTimeout(() => {
    mark(word, "shown", "false");
    write(word, "");
  }, 3000);
}
