// The directory: everybody with their presence, found as one types, called with one key.

import { $, arrange, attempt, copyOf, mark, press } from "./dom.js";
import { label, languages, t, tell, write } from "./language.js";
import { drawAvatar, nameOf, presenceText } from "./people.js";
import { Query } from "./search.js";

export class Directory {
  #people;
  #call;
  #showPerson;
  #rows = new Map();
  #jids = new WeakMap();
  #sorted = [];
  #shown = [];
  #query = new Query("");
  #me = "";

  /**
   * Args:
   *   people: The address book.
   *   call: Calls a number.
   *   showPerson: Shows all that is known of a person.
   */
  constructor({ people, call, showPerson }) {
    this.#people = people;
    this.#call = call;
    this.#showPerson = showPerson;
    people.addEventListener("reset", () => this.#drawAll());
    people.addEventListener("contact", ({ detail }) => this.#changed(detail));
    languages.addEventListener("change", () => this.#drawAll());
    $("search").addEventListener("input", () => this.#search());
    $("search").addEventListener("keydown", (event) => this.#searchKey(event));
    $("contacts").addEventListener("keydown", (event) => this.#listKey(event));
    $("contacts").addEventListener("click", (event) => this.#clicked(event));
    $("contacts").addEventListener("focusin", (event) => this.#setStop(event.target.closest("li")));
    $("dial").addEventListener("click", () => this.#dial());
    $("dial").addEventListener("keydown", (event) => this.#dialKey(event));
  }

  begin(session) {
    this.#me = session.extension;
  }

  end() {
    $("search").value = "";
    this.#query = new Query("");
    $("directory-note").replaceChildren();
    $("dial-note").replaceChildren();
    this.#drawAll();
  }

  /** Does something for the directory; what goes wrong is told in it. */
  attempted = (action) => attempt($("directory-note"), action);

  focusSearch() {
    $("search").focus();
    $("search").select();
  }

  #drawAll() {
    // What went wrong may go well now.
    for (const error of $("contacts").querySelectorAll(".error")) {
      error.remove();
    }
    this.#sorted = this.#people.sorted();
    const rows = new Map();
    for (const contact of this.#sorted) {
      const row = this.#rows.get(contact.jid) ?? this.#newRow(contact);
      rows.set(contact.jid, row);
    }
    this.#rows = rows;
    this.#find();
  }

  #newRow(contact) {
    const row = copyOf("contact-template");
    this.#jids.set(row, contact.jid);
    return row;
  }

  #draw(row, contact) {
    const isMe = contact.ext === this.#me;
    const name = nameOf(contact);
    drawAvatar(row.querySelector(".avatar"), name, contact);
    this.#query.highlight(row.querySelector(".name"), isMe ? t("you", { name }) : name);
    write(row.querySelector(".presence"), presenceText(contact.status));
    this.#query.highlight(row.querySelector(".note"), contact.note ?? "");
    this.#query.highlight(row.querySelector(".ext"), contact.ext);
    const call = row.querySelector(".call");
    label(call, "call-person", { name });
    call.hidden = isMe || contact.ext === "";
  }

  #changed({ action, contact }) {
    const before = this.#rows.get(contact.jid);
    const wasAt = this.#sorted.findIndex((each) => each.jid === contact.jid);
    const stays =
      action !== "removed" && wasAt >= 0 && nameOf(this.#sorted[wasAt]) === nameOf(contact);
    if (!stays) {
      this.#drawAll();
      return;
    }
    // The usual case: somebody's presence, which moves nobody.
    this.#sorted[wasAt] = contact;
    this.#draw(before, contact);
    if (!this.#query.empty) {
      this.#find();
    }
  }

  #search() {
    const before = this.#query;
    this.#query = new Query($("search").value);
    if (before.text !== this.#query.text) {
      $("dial-note").replaceChildren();
      this.#find();
      $("contacts").scrollTop = 0;
    }
  }

  /** Shows those whom the search is about, the best first. */
  #find() {
    const ranks = [[], []];
    for (const contact of this.#sorted) {
      const fits = this.#query.empty
        ? { rank: 0, found: "" }
        : this.#query.rank(this.#people.index(contact));
      if (fits !== null) {
        const row = this.#rows.get(contact.jid);
        ranks[fits.rank].push(row);
        this.#draw(row, contact);
        this.#drawFound(row, contact, fits.found);
      }
    }
    this.#shown = ranks.flat();
    arrange($("contacts"), this.#shown);
    this.#drawDial();
    this.#drawCount();
    const first = this.#shown[0];
    for (const row of this.#shown) {
      mark(row, "first", String(row === first && !this.#query.empty && $("dial").hidden));
    }
    this.#setStop(this.#shown.find((row) => row.contains(document.activeElement)) ?? first);
  }

  #drawFound(row, contact, key) {
    const place = row.querySelector(".found");
    place.hidden = key === "";
    this.#query.highlight(place, key && `${t(key)}: ${contact[key]}`);
  }

  #drawDial() {
    const { number } = this.#query;
    $("dial").hidden = number === "" || this.#people.withExtension(number) !== undefined;
    if (!$("dial").hidden) {
      tell($("dial-text"), "dial", { number: this.#query.text });
    }
  }

  #drawCount() {
    const { count, loaded } = this.#people;
    const shown = this.#shown.length;
    if (!loaded) {
      write($("directory-count"), "");
    } else if (shown === count) {
      tell($("directory-count"), "people", { n: count });
    } else {
      tell($("directory-count"), "people-of", { n: count, shown });
    }
    const failed = $("directory-note").textContent !== "";
    $("directory-empty").hidden = shown > 0 || !$("dial").hidden || failed;
    tell($("directory-empty"), loaded ? (count > 0 ? "nobody-found" : "nobody-there") : "loading");
  }

  // --- Keys and clicks ---------------------------------------------------------------------------

  // One row of the list is on the way of Tab: five hundred would be a long way.
  #setStop(row) {
    if (!row) {
      return;
    }
    const before = $("contacts").querySelector('.call[tabindex="0"]')?.closest("li");
    if (before === row) {
      return;
    }
    for (const [each, index] of [
      [before, -1],
      [row, 0],
    ]) {
      each?.querySelector(".call").setAttribute("tabindex", index);
      each?.querySelector(".name").setAttribute("tabindex", index);
    }
  }

  #focus(row) {
    const call = row.querySelector(".call");
    (call.hidden ? row.querySelector(".name") : call).focus();
  }

  #searchKey(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      if (!$("dial").hidden) {
        $("dial").focus();
      } else if (this.#shown.length > 0) {
        this.#focus(this.#shown[0]);
      }
    } else if (event.key === "Enter" && !event.isComposing && !this.#query.empty) {
      event.preventDefault();
      if (!$("dial").hidden) {
        this.#dial();
      } else if (this.#shown.length > 0) {
        this.#press(this.#shown[0]);
      }
    } else if (event.key === "Escape") {
      $("search").value = "";
      this.#search();
    }
  }

  #dialKey(event) {
    if (event.key === "ArrowUp" || event.key === "Escape") {
      event.preventDefault();
      $("search").focus();
    } else if (event.key === "ArrowDown" && this.#shown.length > 0) {
      event.preventDefault();
      this.#focus(this.#shown[0]);
    }
  }

  #listKey(event) {
    const at = this.#shown.indexOf(event.target.closest("li"));
    const last = this.#shown.length - 1;
    const places = {
      ArrowDown: Math.min(at + 1, last),
      ArrowUp: at - 1,
      Home: 0,
      End: last,
      PageDown: Math.min(at + 8, last),
      PageUp: Math.max(at - 8, 0),
    };
    if (event.key === "Escape" || (event.key === "ArrowUp" && at === 0)) {
      event.preventDefault();
      $("search").focus();
    } else if (Object.hasOwn(places, event.key)) {
      event.preventDefault();
      this.#focus(this.#shown[places[event.key]]);
    } else if (event.key === "ArrowLeft") {
      this.#shown[at].querySelector(".name").focus();
    } else if (event.key === "ArrowRight") {
      this.#focus(this.#shown[at]);
    }
  }

  #clicked(event) {
    const row = event.target.closest("li");
    if (event.target.closest(".call")) {
      this.#press(row);
    } else if (event.target.closest(".name")) {
      this.#showPerson(this.#people.get(this.#jids.get(row)));
    }
  }

  #press(row) {
    const { ext } = this.#people.get(this.#jids.get(row));
    if (!row.querySelector(".call").hidden) {
      press(row.querySelector(".call"), row, () => this.#call(ext));
    }
  }

  async #dial() {
    const { number } = this.#query;
    const hadFocus = document.activeElement === $("dial");
    if (await press($("dial"), $("dial-note"), () => this.#call(number))) {
      $("search").value = "";
      this.#search();
      if (hadFocus) {
        $("search").focus();
      }
    }
  }
}
