/*
The History page. Buttons with `data-history` report an action to the store "history-act":
`data-history-id` is the entry, `data-history-sure` a question that a second click must confirm, and
`data-history-value` the present text of what the action changes. The lists are requested when the
page is shown, and again after a new run, but not while a question or a form is open: the new list
would remove it.
*/
(function () {
  "use strict";

  const ASKS = { create: "Title of the collection", rename: "New title", note: "Note" };
  const restores = new WeakMap(); // what removes the question of a button
  let isStale = true;
  let count = 0;

  function act(action, id, text) {
    count += 1;
    const data = { do: action, id: Number(id) || 0, text: text ?? "", n: count };
    window.dash_clientside.set_props("history-act", { data });
  }

  function onClick(event) {
    const link = event.target.closest("[data-history-open]");
    const opensHere = !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
    if (link && opensHere) {
      event.preventDefault();
      window.stratascope.page.select(link.dataset.historyOpen);
      return;
    }
    const button = event.target.closest("[data-history]");
    if (button) {
      press(button);
    }
  }

  function press(button) {
    const { history: action, historyId: id, historySure: question } = button.dataset;
    if (question && button.dataset.asked !== id) {
      restores.get(button)?.();
      confirm(button, question);
    } else if (ASKS[action]) {
      edit(button, action, id);
    } else {
      act(action, id);
    }
  }

  /* The button asks its question; a second click answers it, and leaving the button cancels it. */
  function confirm(button, question) {
    const { textContent: text, ariaLabel: label } = button;
    const { historyId: id } = button.dataset;
    button.dataset.asked = id; // React can give the button to another entry
    button.textContent = question;
    button.ariaLabel = label ? `${label}: ${question}` : null;
    const restore = () => {
      if (restores.get(button) !== restore) {
        return;
      }
      restores.delete(button);
      delete button.dataset.asked;
      button.textContent = text;
      if (button.dataset.historyId === id) {
        button.ariaLabel = label;
      }
      requestIfShown();
    };
    restores.set(button, restore);
    button.addEventListener("blur", restore, { once: true });
  }

  /* A form in place of the button; Escape or Cancel closes it. The button stays: React owns it. */
  function edit(button, action, id) {
    const form = document.createElement("form");
    const isNote = action === "note";
    const field = document.createElement(isNote ? "textarea" : "input");
    field.value = button.dataset.historyValue ?? "";
    field.maxLength = isNote ? 4000 : 120;
    field.ariaLabel = ASKS[action];
    field.placeholder = ASKS[action];
    field.dir = "auto";
    field.className = "form-control form-control-sm";
    const save = document.createElement("button");
    save.className = "btn btn-sm btn-primary";
    save.textContent = "Save";
    const cancel = document.createElement("button");
    cancel.className = "btn btn-sm btn-outline-secondary";
    cancel.type = "button";
    cancel.textContent = "Cancel";
    form.className = "history-form";
    form.append(field, save, cancel);
    const close = () => {
      form.remove();
      button.hidden = false;
      button.focus();
      requestIfShown();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close();
      act(action, id, field.value);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.preventDefault(); // the side sheet stays open
        close();
      }
    });
    cancel.addEventListener("click", close);
    button.after(form);
    button.hidden = true;
    field.focus();
  }

  /* ------------------------------------------------------------ when to request the lists */

  const root = document.documentElement;

  function requestIfShown() {
    const isBusy = document.querySelector("[data-asked], .history-form");
    if (isStale && !isBusy && root.dataset.page === "history") {
      isStale = false;
      act("list");
    }
  }

  function historyGrew() {
    isStale = true;
    requestIfShown();
  }

  // workspace.js names the page that is shown.
  const watcher = new MutationObserver(requestIfShown);
  watcher.observe(root, { attributes: true, attributeFilter: ["data-page"] });
  document.addEventListener("click", onClick);

  window.stratascope = { ...window.stratascope, history: { act } };
  window.dash_clientside ??= {};
  window.dash_clientside.stratascope = { ...window.dash_clientside.stratascope, historyGrew };
})();
