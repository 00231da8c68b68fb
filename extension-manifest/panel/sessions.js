// The list of chats: find, open, rename, delete.

import { announce, h, iconButton, show } from "./dom.js";

export class Sessions {
  #agent = null;
  #rows = [];
  #next = null;
  #search = "";
  #timer = 0;

  constructor({ element, button, ready, onOpen, onGone, current }) {
    Object.assign(this, { element, button, ready, onOpen, onGone, current });
    this.input = h("input", {
      type: "search",
      placeholder: "Search chats",
      "aria-label": "Search chats",
      oninput: () => this.#later(),
    });
    this.list = h("ul");
    this.more = h(
      "button",
      { type: "button", className: "plain earlier", hidden: true, onclick: () => this.load(true) },
      "Show more",
    );
    const close = iconButton("close", "Close the list", () => this.open(false));
    element.append(h("div", { className: "drawer-head" }, this.input, close), this.list, this.more);
    element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented) this.open(false);
    });
    button.addEventListener("click", () => this.open(element.hidden));
  }

  open(open) {
    const was = !this.element.hidden;
    show(this.element, open);
    this.button.setAttribute("aria-expanded", String(open));
    if (open) {
      this.load();
      this.input.focus();
    } else if (was) this.button.focus();
  }

  use(agent) {
    this.#agent = agent;
    if (!this.element.hidden) this.load();
  }

  /** Something changed on the server. */
  changed() {
    if (!this.element.hidden) this.#later();
  }

  async load(more = false) {
    if (!this.#agent) return;
    const asked = { limit: 50 };
    if (this.#search) asked.search = this.#search;
    if (more) asked.cursor = this.#next;
    try {
      const reply = await this.#agent.call("list_sessions", asked);
      this.#rows = more ? [...this.#rows, ...reply.data] : reply.data;
      this.#next = reply.next_cursor;
      this.#draw();
    } catch (error) {
      this.list.replaceChildren(h("li", { className: "none" }, error.message));
    }
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#search = this.input.value.trim();
      if (this.ready()) this.load();
    }, 150);
  }

  #draw() {
    if (this.list.querySelector(".rename")) return; // somebody is writing there
    const empty = this.#search ? "No chat has these words." : "No chats yet.";
    const rows = this.#rows.map((session) => this.#row(session));
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { className: "none" }, empty)]));
    show(this.more, Boolean(this.#next));
  }

  #row(session) {
    const title = session.title || "New chat";
    const small = `${when(session.updated_at)} · ${session.message_count} messages`;
    const open = h(
      "button",
      { type: "button", className: "open", onclick: () => this.#choose(session.id) },
      h("b", {}, title),
      h("small", {}, small),
    );
    const row = h("li", {}, open);
    if (session.id === this.current()) row.setAttribute("aria-current", "true");
    row.append(
      iconButton("pencil", `Rename ${title}`, () => this.#rename(row, session), {
        className: "act rename-button",
      }),
      iconButton("bin", `Delete ${title}`, (event) => this.#delete(event.currentTarget, session), {
        className: "act delete-button",
      }),
    );
    return row;
  }

  #choose(id) {
    this.open(false);
    this.onOpen(id);
  }

  #rename(row, session) {
    const input = h("input", {
      className: "rename",
      value: session.title ?? "",
      maxLength: 300,
      "aria-label": "Title",
    });
    let over = false; // taking the field away takes the focus from it, which ends it too
    const end = async (keep) => {
      if (over) return;
      over = true;
      const title = input.value.trim();
      input.remove();
      if (keep && title && title !== session.title) {
        await this.#agent
          .call("update_session", { session_id: session.id, title })
          .catch((error) => announce(error.message));
      }
      await this.load();
      this.list.querySelector("[aria-current] .open, .open")?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      end(event.key === "Enter");
    });
    input.addEventListener("blur", () => end(true));
    row.replaceChildren(input);
    input.select();
  }

  /** The first press asks, the second does it. */
  async #delete(button, session) {
    if (button.dataset.sure !== "yes") {
      button.dataset.sure = "yes";
      button.textContent = "Delete?";
      button.classList.remove("act");
      announce("Press again to delete this chat");
      setTimeout(() => button.isConnected && this.#draw(), 4000);
      return;
    }
    await this.#agent
      .call("delete_session", { session_id: session.id })
      .catch((error) => announce(error.message));
    this.onGone(session.id);
    await this.load();
    this.input.focus();
  }
}

function when(moment) {
  const at = new Date(moment);
  const today = at.toDateString() === new Date().toDateString();
  return today
    ? at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : at.toLocaleDateString([], { day: "numeric", month: "short" });
}
