// The address book, as the server has it and its events change it; and who has a number.

import { inTurn } from "./dom.js";
import { currentLanguage, knows, t } from "./language.js";
import { indexOf } from "./search.js";

const TINTS = 8;

/** Who has a number that nobody has. */
const NOBODY = "";

/** Gives the name of a person, or what there is instead. */
export function nameOf(contact) {
  return fullName(contact) || contact.ext || t("no-name");
}

function fullName(contact) {
  return `${contact.firstName} ${contact.lastName}`.trim();
}

/** Gives the words for a presence; one that is not known as it comes: `BeRightBack`, `Be right back`. */
export function presenceText(status = "") {
  if (knows(status)) {
    return t(status);
  }
  const words = status.replaceAll(/(?<=\p{Ll})(?=\p{Lu})/gu, " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Gives the kind of a presence, which decides on its colour. */
export function presenceKind(status = "") {
  switch (status) {
    case "Available":
      return "here";
    case "":
    case "LoggedOut":
      return "gone";
    case "NotAvailable":
    case "Busy":
    case "DoNotDisturb":
    case "OnThePhone":
    case "InMeeting":
      return "busy";
    default:
      return "away";
  }
}

/** Draws an avatar: initials on a colour of the person's own, and the presence of a colleague. */
export function drawAvatar(element, name, contact) {
  const letters = name.match(/(?<=^|[\s.-])\p{L}/gu)?.slice(0, 2).join("") ?? "";
  let hash = 0;
  for (const letter of contact?.jid ?? name) {
    hash = (hash * 31 + letter.codePointAt(0)) % 9973;
  }
  const look = `${letters.toLocaleUpperCase()}|${hash % TINTS}|${contact ? presenceKind(contact.status) : ""}`;
  if (element.dataset.look === look) {
    return;
  }
  const [initials, tint, presence] = look.split("|");
  element.dataset.look = look;
  element.dataset.tint = tint;
  element.dataset.presence = presence;
  element.textContent = initials || "#";
}

/**
 * The people of the address book.
 *
 * Fires `reset` when all may be other ones, `contact` with `{action, contact}` for one, and `named`
 * when it has become known who has a number, or that nobody has.
 */
export class People extends EventTarget {
  #session = null;
  #stream = null;
  #byJid = new Map();
  #byExt = new Map();
  #indexes = new Map();
  #lookups = new Map();
  #list = null;
  /** What has changed since the book was asked for; null while it is not being read. */
  #missed = null;
  #read = async () => {};

  /** Whether the book has been read. */
  loaded = false;

  /** `attempted` does what it is given, and tells where the person sees it what went wrong. */
  begin(session, stream, attempted) {
    this.#session = session;
    this.#stream = stream;
    this.#read = inTurn(() => attempted(() => this.#readBook(session)));
    stream.addEventListener("ContactEvent", ({ detail }) => this.#changed(detail));
  }

  end() {
    this.#session = this.#stream = this.#list = null;
    this.#byJid = new Map();
    this.#byExt = new Map();
    this.#indexes = new Map();
    this.#lookups = new Map();
    this.loaded = false;
    this.dispatchEvent(new Event("reset"));
  }

  /** Reads the book again. */
  refresh() {
    return this.#read();
  }

  async #readBook(session) {
    // What changes from here on may be newer than the answer.
    const missed = [];
    this.#missed = missed;
    let list;
    try {
      list = await session.contacts();
    } finally {
      if (this.#missed === missed) {
        this.#missed = null;
      }
    }
    if (this.#session !== session) {
      return;
    }
    if (list !== this.#list || missed.length > 0) {
      this.#list = list;
      this.#byJid = new Map(list.map((contact) => [contact.jid, contact]));
      for (const { action, contact } of missed) {
        this.#apply(action, contact);
      }
      this.#byExt = new Map([...this.#byJid.values()].map((contact) => [contact.ext, contact]));
      this.#indexes = new Map();
      this.#lookups = new Map();
    }
    this.loaded = true;
    this.dispatchEvent(new Event("reset"));
  }

  #apply(action, contact) {
    if (action === "removed") {
      this.#byJid.delete(contact.jid);
    } else {
      this.#byJid.set(contact.jid, contact);
    }
  }

  #changed({ action, contact }) {
    this.#missed?.push({ action, contact });
    if (!this.loaded) {
      return;
    }
    const before = this.#byJid.get(contact.jid);
    // The list that was read is no longer what is shown, so the same one again is news.
    this.#list = null;
    this.#apply(action, contact);
    this.#indexes.delete(contact.jid);
    if (before !== undefined && this.#byExt.get(before.ext) === before) {
      this.#byExt.delete(before.ext);
    }
    if (action !== "removed") {
      this.#byExt.set(contact.ext, contact);
    }
    if (before === undefined || action === "removed" || !sameNumbers(before, contact)) {
      this.#lookups = new Map();
    }
    this.dispatchEvent(new CustomEvent("contact", { detail: { action, contact } }));
  }

  /** Everybody, ordered by name in the way of the language. */
  sorted() {
    const { compare } = new Intl.Collator(currentLanguage(), { sensitivity: "base", numeric: true });
    return [...this.#byJid.values()]
      .map((contact) => [nameOf(contact), contact])
      .sort(([one, first], [other, second]) => compare(one, other) || compare(first.ext, second.ext))
      .map(([, contact]) => contact);
  }

  get count() {
    return this.#byJid.size;
  }

  get(jid) {
    return this.#byJid.get(jid);
  }

  withExtension(ext) {
    return this.#byExt.get(ext);
  }

  /** What can be found of a person (see search.js). */
  index(contact) {
    let index = this.#indexes.get(contact.jid);
    if (index === undefined) {
      index = indexOf(contact);
      this.#indexes.set(contact.jid, index);
    }
    return index;
  }

  /** Gives whose number it is; undefined while that is not known. Fires `named` when it has become so. */
  whose(number) {
    if (!number) {
      return undefined;
    }
    const colleague = this.#byExt.get(number);
    if (colleague !== undefined) {
      return colleague;
    }
    if (!this.#lookups.has(number)) {
      this.#lookups.set(number, undefined);
      this.#lookUp(number);
    }
    return this.#byJid.get(this.#lookups.get(number));
  }

  /** Tells whether more will not become known of whose number it is. */
  isSettled(number) {
    return !number || this.#byExt.has(number) || this.#lookups.get(number) !== undefined;
  }

  async #lookUp(number) {
    const lookups = this.#lookups;
    let jid = NOBODY;
    try {
      const [contact] = await this.#session.lookup(number);
      jid = contact?.jid ?? NOBODY;
    } catch {
      // The number stands there instead of the name, until the book is read again.
    }
    if (lookups === this.#lookups) {
      lookups.set(number, jid);
      this.dispatchEvent(new Event("named"));
    }
  }
}

function sameNumbers(one, other) {
  return ["ext", "did", "cellPhone", "homePhone"].every((key) => one[key] === other[key]);
}
