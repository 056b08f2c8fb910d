/*
Controls that show a part of the selection and change it: the layers' sliders, the text to find, and
the form at the top.

A person moves them while the server answers what was done before. What a control has reported and
nobody has answered yet, and what it holds and has not reported, is newer than any answer: it stays.
They are set from here, not by Dash's own wiring: Dash would hear of no move of a control that it
sets until all that it waits for is answered, and would set some of it from answers that it drops.
*/
(function () {
  "use strict";

  const FORM = ["model", "prompt", "new", "template"];
  const known = {}; // by id: the value that both sides know of, the number of its report
  const dash = () => window.dash_clientside;
  const plain = (value) => String(value ?? "");
  const props = (id) => window.dash_component_api.getLayout(id)?.props || {};

  /* A control changed: reported, unless it was only set to what is selected anyway. */
  function hears(id, value, to) {
    if (plain(value) !== plain(known[id]?.value)) {
      known[id] = { value, n: dash().stratascope.report({ to, from: id }) };
    }
  }

  function isNewer(id, value, note) {
    const mine = known[id];
    const unheard = (value ?? null) !== null && plain(value) !== plain(mine?.value);
    return Boolean(mine) && (unheard || mine.n > (note?.seen ?? 0));
  }

  /* A control is set to what is selected, and to what bounds it. */
  function shows(id, note, value, bounds) {
    const now = props(id);
    const wanted = { ...bounds };
    if (!isNewer(id, now.value, note)) {
      known[id] = { value, n: 0 };
      wanted.value = value;
    }
    const changed = Object.entries(wanted).filter(([name, each]) => plain(now[name]) !== plain(each));
    if (changed.length) {
      dash().set_props(id, Object.fromEntries(changed));
    }
  }

  function layer(focus, run, note) {
    if (run) {
      const max = run.layers - 1;
      shows("attention-layer", note, Math.min(focus?.layer ?? run.layer, max), { max });
    }
  }

  function slide(value) {
    if (known["attention-layer"] && (value ?? null) !== null) {
      hears("attention-layer", value, `layer=${value}`);
    }
  }

  function found(shown, note) {
    shows("lens-find", note, shown?.find ?? "");
  }

  function find(text) {
    hears("lens-find", text ?? "", `find=${encodeURIComponent(text ?? "")}`);
  }

  /* What the form holds at this moment. */
  function form() {
    return Object.fromEntries(FORM.map((name) => [name, plain(props(`run-${name}`).value)]));
  }

  /* The form shows what was asked for by other means than itself. */
  function fill(note) {
    for (const [id, value] of Object.entries(note.set || {})) {
      dash().set_props(id, { value });
    }
  }

  const shared = (window.dash_clientside = window.dash_clientside || {});
  shared.stratascope = Object.assign(shared.stratascope || {}, {
    layer, slide, found, find, form, fill, hears, shows,
  });
})();
