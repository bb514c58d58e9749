// Finds people by what is typed: by names and notes, in any case and with accents or without, and by
// numbers, however they are written. Much as `GET /api/contacts?q=` does it, but at once.

const NUMBER_KEYS = ["ext", "did", "cellPhone", "homePhone"];

/** Folds a text for comparison: `Ёлкина` becomes `елкина`. Gives where each letter comes from, too. */
function fold(text) {
  let folded = "";
  const from = [];
  let place = 0;
  for (const letter of text) {
    const plain = letter.normalize("NFD").replaceAll(/\p{M}/gu, "").toLowerCase();
    folded += plain;
    for (let count = plain.length; count > 0; count--) {
      from.push(place);
    }
    place += letter.length;
  }
  from.push(place);
  return { folded, from };
}

/**
 * What stands in numbers for the eye, and what telephones put around those that are copied from their
 * address book: marks of the direction of writing. The server leaves out the same.
 */
const LAYOUT = /[\s().\-/\u2010-\u2015\u2212\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

function digitsOf(text) {
  return text.replaceAll(/\D/g, "");
}

/** What of a person can be found; made once for each change of the person. */
export function indexOf(contact) {
  const name = `${contact.firstName} ${contact.lastName}`;
  return {
    text: fold(`${name} ${contact.note ?? ""}`).folded,
    words: fold(name).folded.split(/[\s-]+/),
    ext: contact.ext,
    numbers: NUMBER_KEYS.map((key) => [key, digitsOf(contact[key] ?? "")]),
    email: (contact.email ?? "").toLowerCase(),
  };
}

/** What is typed, made ready to be compared. */
export class Query {
  constructor(text) {
    this.text = text.trim();
    this.words = fold(this.text).folded.split(/[\s,;]+/).filter(Boolean);
    this.empty = this.words.length === 0;
    this.hasLetters = /\p{L}/u.test(this.text);
    this.digits = this.hasLetters ? "" : digitsOf(this.text);
  }

  /** The number that can be dialled, if the text is one; else "". */
  get number() {
    // +44 (0)20: what is dialled within the country only.
    const text = this.text.includes("+") ? this.text.replaceAll("(0)", "") : this.text;
    const plain = text.replaceAll(LAYOUT, "");
    return /^\+?[\d*#]{2,}$/.test(plain) ? plain : "";
  }

  /**
   * Gives how well a person fits: 0 best, null not at all; and the number that was found, if it is
   * none that is always shown.
   */
  rank(index) {
    let best = 0;
    let found = "";
    for (const word of this.words) {
      const digits = /\p{L}/u.test(word) ? "" : digitsOf(word);
      if (index.words.some((each) => each.startsWith(word)) || index.ext.startsWith(word)) {
        continue;
      }
      best = 1;
      if (index.text.includes(word)) {
        continue;
      }
      const number =
        digits && index.numbers.find(([, each]) => each.includes(this.digits || digits));
      if (number) {
        found = number[0];
      } else if (this.words.length === 1 && this.#isIn(index.email, word)) {
        found = "email";
      } else {
        return this.#whole(index);
      }
    }
    return { rank: best, found: found === "ext" ? "" : found };
  }

  // Most people of a company have the same name behind the @.
  #isIn(email, word) {
    return (word.includes("@") ? email : email.split("@")[0]).includes(word);
  }

  // `202 555 01 44` is one number in several parts.
  #whole(index) {
    const number = this.digits && index.numbers.find(([, each]) => each.includes(this.digits));
    return number ? { rank: 1, found: number[0] === "ext" ? "" : number[0] } : null;
  }

  /** Gives what of a text was typed, as pairs of places, in order and apart. */
  #places(text) {
    const { folded, from } = fold(text);
    const marked = new Uint8Array(folded.length);
    for (const word of this.words) {
      for (let at = folded.indexOf(word); at >= 0; at = folded.indexOf(word, at + 1)) {
        marked.fill(1, at, at + word.length);
      }
    }
    if (this.digits) {
      markDigits(text, this.digits, marked);
    }
    const places = [];
    for (let at = marked.indexOf(1); at >= 0; ) {
      const end = marked.indexOf(0, at);
      const stop = end < 0 ? marked.length : end;
      places.push([from[at], from[stop]]);
      at = end < 0 ? -1 : marked.indexOf(1, end);
    }
    return places;
  }

  /** Writes a text into an element, with what was typed marked in it. */
  highlight(element, text) {
    const places = this.empty ? [] : this.#places(text);
    if (places.length === 0) {
      if (element.childElementCount > 0 || element.textContent !== text) {
        element.textContent = text;
      }
      return;
    }
    const nodes = [];
    let done = 0;
    for (const [begin, end] of places) {
      const marked = document.createElement("mark");
      marked.textContent = text.slice(begin, end);
      nodes.push(text.slice(done, begin), marked);
      done = end;
    }
    element.replaceChildren(...nodes, text.slice(done));
  }
}

/** Marks the digits of a number, whatever stands between them. */
function markDigits(text, digits, marked) {
  const where = [...text.matchAll(/\d/g)].map((match) => match.index);
  const at = where.map((place) => text[place]).join("").indexOf(digits);
  // Folding changes no place in a text that has nothing but digits and their marks.
  if (at >= 0 && marked.length === text.length) {
    marked.fill(1, where[at], where[at + digits.length - 1] + 1);
  }
}
