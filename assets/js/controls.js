/*
Controls that both show a part of the selection and change it: the layer sliders, the "Find" field
and the form at the top.

A reader can change a control while the server still answers an earlier action. A change that the
server has not confirmed yet is newer than its answer, so the control keeps it. For this reason the
browser sets these controls, not a callback on the server: Dash would delay their changes until the
callback is answered, and would set them from answers that it then discards.
*/
(function () {
  "use strict";

  const FORM_FIELDS = [
    "model", "prompt", "new", "template", "sampling", "temperature", "nucleus", "seed",
  ];
  const NUMBERS = ["new", "temperature", "nucleus", "seed"];
  // By control: the value that server and control agree on, and the number of its report.
  const synced = {};
  const setProps = (id, props) => window.dash_clientside.set_props(id, props);
  const getProps = (id) => window.dash_component_api.getLayout(id)?.props || {};
  const text = (value) => String(value ?? "");

  /* Reports a change by the reader. Setting the control to the selected value is not a change. */
  function reportChange(id, value, to) {
    if (text(value) !== text(synced[id]?.value)) {
      synced[id] = { value, report: window.stratascope.page.report({ to, from: id }) };
    }
  }

  /* Whether a control has a change that the answer in `note` does not contain. */
  function isNewer(id, value, note) {
    const last = synced[id];
    const isUnreported = (value ?? null) !== null && text(value) !== text(last?.value);
    return Boolean(last) && (isUnreported || last.report > (note?.seen ?? 0));
  }

  /* Sets a control to the selected value, unless the reader has changed it since. */
  function showValue(id, note, value, bounds) {
    const current = getProps(id);
    const wanted = { ...bounds };
    if (!isNewer(id, current.value, note)) {
      synced[id] = { value, report: 0 };
      wanted.value = value;
    }
    const changed = Object.entries(wanted).filter(
      ([name, prop]) => text(current[name]) !== text(prop)
    );
    if (changed.length) {
      setProps(id, Object.fromEntries(changed));
    }
  }

  function showAttentionLayer(focus, run, note) {
    if (run) {
      const max = run.layers - 1;
      showValue("attention-layer", note, Math.min(focus?.layer ?? run.layer, max), { max });
    }
  }

  function reportAttentionLayer(value) {
    if (synced["attention-layer"] && (value ?? null) !== null) {
      reportChange("attention-layer", value, `layer=${value}`);
    }
  }

  function showCircuit(part, note) {
    showValue("components-size", note, part?.circuit ?? 30);
  }

  function reportCircuit(value) {
    if (synced["components-size"] && (value ?? null) !== null) {
      reportChange("components-size", value, `circuit=${value}`);
    }
  }

  function showFindText(part, note) {
    showValue("lens-find", note, part?.find ?? "");
  }

  function reportFindText(value) {
    reportChange("lens-find", value ?? "", `find=${encodeURIComponent(value ?? "")}`);
  }

  /* The digits of a model that adds are fixed. They follow from the model, not from the address. */
  const isFixed = (id) => Boolean(getProps(id).disabled);
  const TASKS = { "tasks-suite": "suite", "tasks-size": "prompts", "tasks-digits": "digits" };

  /* Shows the form of the page Tasks. An uploaded list is no part of the address and stays. */
  function showTasks(part, note) {
    for (const [id, name] of Object.entries(TASKS)) {
      if (part && !isFixed(id)) {
        showValue(id, note, part[name]);
      }
    }
  }

  function reportTasks(...values) {
    Object.entries(TASKS).forEach(([id, name], index) => {
      const value = values[index];
      const isOwn = value === "own" || (value ?? "") === "";
      if (synced[id] && !isOwn && !isFixed(id)) {
        reportChange(id, value, `${name}=${encodeURIComponent(value)}`);
      }
    });
  }

  function readForm() {
    return Object.fromEntries(
      FORM_FIELDS.map((name) => [name, text(getProps(`run-${name}`).value)])
    );
  }

  /* On these pages, the menu of models acts at once. On the others, Run or Run suite reads it. */
  const AT_ONCE = ["model", "compare"];
  let menuReport = 0; // number of the last report of the menu's model

  const modelTarget = (model) => `model=${encodeURIComponent(model)}`;

  /* Reports a change of the arrangement. A page that the menu acts on adopts the menu's model. */
  function reportArrangement(to, page) {
    const [chosen, current] = [getProps("run-model").value, getProps("request").data?.model];
    if (!AT_ONCE.includes(page) || !chosen || !current || chosen === current) {
      return window.stratascope.page.report({ to });
    }
    menuReport = window.stratascope.page.report({
      to: `${to}&${modelTarget(chosen)}`,
      from: "run-model",
    });
    return menuReport;
  }

  function onMenuChange({ target }) {
    if (target.id === "run-model" && AT_ONCE.includes(document.documentElement.dataset.page)) {
      menuReport = window.stratascope.page.report({
        to: modelTarget(target.value),
        from: "run-model",
      });
    }
  }

  /* On pages that the menu acts on, it shows the model of the address. */
  function showModel(note) {
    const selected = new URLSearchParams((note.link ?? "").replace(/^[^?]*/, ""));
    const [page, model] = [selected.get("page"), selected.get("model")];
    if (AT_ONCE.includes(page) && model && model !== getProps("run-model").value) {
      setField("run-model", model);
    }
  }

  /* A list that lacks a value from a link gets it, because a closed list would show another. */
  function withOption(options, value) {
    const isListed = !options || options.some((option) => option.value === value);
    return isListed ? {} : { options: [...options, { label: value, value }] };
  }

  function setField(id, value) {
    setProps(id, { value, ...withOption(getProps(id).options, value) });
  }

  let isFilled = false;

  /*
  Fills the form where something other than the form itself requested the run. When the page opens,
  it has what the reader had typed before a reload.
  */
  function fillForm(note) {
    const isMenuNewer = menuReport > note.seen;
    for (const [id, value] of Object.entries(note.set || {})) {
      if (id !== "run-model" || !isMenuNewer) {
        setField(id, value);
      }
    }
    if (!isFilled) {
      isFilled = true;
      for (const [name, value] of Object.entries(window.stratascope.undo.takeDraft())) {
        setProps(`run-${name}`, { value: NUMBERS.includes(name) ? Number(value) : value });
      }
    }
    if (!isMenuNewer) {
      showModel(note);
    }
  }

  document.addEventListener("change", onMenuChange, true);

  window.stratascope ??= {};
  window.stratascope.controls = {
    reportArrangement, reportChange, showValue, readForm, fillForm,
  };
  window.dash_clientside ??= {};
  window.dash_clientside.stratascope = {
    ...window.dash_clientside.stratascope,
    showAttentionLayer,
    reportAttentionLayer,
    showCircuit,
    reportCircuit,
    showFindText,
    reportFindText,
    showTasks,
    reportTasks,
  };
})();
