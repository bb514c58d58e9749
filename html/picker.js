// The window in which somebody is chosen, to whom a call is to go.

import { $, copyOf, arrange, attempt } from "./dom.js";
import { tell, write } from "./language.js";
import { drawAvatar, nameOf, presenceText } from "./people.js";
import { Query } from "./search.js";

/** More than anybody reads: who is not among them is found by typing on. */
const MAX_SHOWN = 60;

export class Picker {
  #people;
  #me = "";
  #request = null;
  #busy = false;

  constructor({ people }) {
    this.#people = people;
    $("picker-close").addEventListener("click", () => $("picker").close());
    $("picker").addEventListener("click", (event) => {
      if (event.target === $("picker")) {
        $("picker").close();
      }
    });
    $("picker").addEventListener("close", () => {
      this.#request = null;
    });
    $("picker-search").addEventListener("input", () => this.#draw());
    $("picker").addEventListener("keydown", (event) => this.#key(event));
    $("picker-list").addEventListener("click", (event) => {
      const choice = event.target.closest("button");
      if (choice !== null) {
        this.#choose(choice.value);
      }
    });
    $("picker-ways").addEventListener("change", () => this.#drawHint());
    people.addEventListener("reset", () => this.#draw());
    people.addEventListener("contact", () => this.#draw());
  }

  begin(session) {
    this.#me = session.extension;
  }

  end() {
    $("picker").close();
    $("picker-search").value = "";
    for (const id of ["picker-title", "picker-hint", "picker-list"]) {
      write($(id), "");
    }
  }

  /** Whether it is open for this call. */
  isFor(callId) {
    return this.#request?.callId === callId;
  }

  close() {
    $("picker").close();
  }

  /**
   * Lets somebody be chosen.
   *
   * Args:
   *   callId: The call that it is about.
   *   name: Of the other party.
   *   deflects: Whether the call rings still.
   *   now: Sends the call to a number.
   *   ask: Calls a number, and puts the call on hold; null where that cannot be.
   */
  open(request) {
    this.#request = request;
    const { name, deflects } = request;
    tell($("picker-title"), deflects ? "deflect-title" : "transfer-title", { name });
    $("picker-ways").hidden = request.ask === null;
    $("picker-ways").querySelector("[value=now]").checked = true;
    $("picker-search").value = "";
    $("picker-error").textContent = "";
    this.#drawHint();
    this.#draw();
    $("picker").showModal();
    $("picker-search").focus();
  }

  get #asks() {
    return $("picker-ways").querySelector("[value=ask]").checked;
  }

  #drawHint() {
    const { deflects, name } = this.#request;
    const key = deflects ? "deflect-hint" : this.#asks ? "way-ask-hint" : "way-now-hint";
    tell($("picker-hint"), key, { name });
  }

  #draw() {
    if (this.#request === null) {
      return;
    }
    const query = new Query($("picker-search").value);
    const ranks = [[], []];
    for (const contact of this.#people.sorted()) {
      const fits = query.empty ? { rank: 0 } : query.rank(this.#people.index(contact));
      if (fits !== null && contact.ext !== "" && contact.ext !== this.#me) {
        ranks[fits.rank].push(contact);
      }
    }
    const kept = new Map([...$("picker-list").children].map((item) => [item.dataset.key, item]));
    const items = ranks
      .flat()
      .slice(0, MAX_SHOWN)
      .map((contact) => this.#person(kept, contact, query));
    if (query.number !== "" && this.#people.withExtension(query.number) === undefined) {
      items.unshift(this.#number(kept, query.number));
    }
    arrange($("picker-list"), items);
    $("picker-empty").hidden = items.length > 0;
  }

  #item(kept, key, number) {
    const item = kept.get(key) ?? copyOf("choice-template");
    item.dataset.key = key;
    item.querySelector("button").value = number;
    return item;
  }

  #person(kept, contact, query) {
    const item = this.#item(kept, `jid-${contact.jid}`, contact.ext);
    const name = nameOf(contact);
    drawAvatar(item.querySelector(".avatar"), name, contact);
    query.highlight(item.querySelector(".name"), name);
    const about = [presenceText(contact.status), contact.note].filter(Boolean);
    write(item.querySelector(".about"), about.join(" · "));
    query.highlight(item.querySelector(".ext"), contact.ext);
    return item;
  }

  #number(kept, number) {
    const item = this.#item(kept, "number", number);
    drawAvatar(item.querySelector(".avatar"), "", undefined);
    write(item.querySelector(".name"), number);
    return item;
  }

  #key(event) {
    const buttons = [...$("picker-list").querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const inSearch = document.activeElement === $("picker-search");
    if (event.key === "Enter" && inSearch && !event.isComposing) {
      event.preventDefault();
      // Where nothing is typed, nobody is meant.
      if ($("picker-search").value.trim() !== "" && buttons.length > 0) {
        this.#choose(buttons[0].value);
      }
    } else if (event.key === "ArrowDown" && (inSearch || at >= 0)) {
      event.preventDefault();
      buttons[Math.min(at + 1, buttons.length - 1)]?.focus();
    } else if (event.key === "ArrowUp" && at >= 0) {
      event.preventDefault();
      (buttons[at - 1] ?? $("picker-search")).focus();
    }
  }

  async #choose(number) {
    const request = this.#request;
    if (this.#busy) {
      return;
    }
    this.#busy = true;
    try {
      const act = this.#asks && request.ask !== null ? request.ask : request.now;
      const done = await attempt($("picker"), () => act(number));
      if (done && this.#request === request) {
        $("picker").close();
      }
    } finally {
      this.#busy = false;
    }
  }
}
