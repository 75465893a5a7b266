// What the page does by itself: shows evidence, marks changes, refuses files that are too large, saves the record.
window.otdrg = (() => {
  const LIMIT = 200 * 2 ** 20;
  const all = (selector) => [...document.querySelectorAll(selector)];

  function stateOf(row) {
    const checked = row.querySelector("input:checked");
    return checked ? checked.value : row.dataset.state;
  }

  function point() {
    const checked = document.querySelector("input[name=otdrg-point]:checked");
    return checked ? checked.value : "";
  }

  function showEvidence(labels) {
    for (const layer of all(".otdrg-heat")) layer.hidden = !labels.includes(layer.dataset.label);
  }

  // While a sentence is pointed at or in focus, the images show where it comes from and nothing else.
  function showSentence(sentence) {
    showEvidence(JSON.parse(sentence.dataset.labels));
    document.querySelector(".otdrg-detail").textContent = sentence.dataset.detail;
    for (const other of all(".otdrg-sentence")) other.classList.toggle("otdrg-shown", other === sentence);
  }

  function leaveSentence() {
    const chosen = document.querySelector("input[name=otdrg-evidence]:checked");
    showEvidence(chosen ? [chosen.value] : []);
    for (const sentence of all(".otdrg-shown")) sentence.classList.remove("otdrg-shown");
  }

  for (const [enter, leave] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    const follow = (event, action) => {
      const sentence = event.target.closest && event.target.closest(".otdrg-sentence");
      if (sentence) action(sentence);
    };
    document.addEventListener(enter, (event) => follow(event, showSentence), true);
    document.addEventListener(leave, (event) => follow(event, leaveSentence), true);
  }

  // The report while it is edited, or null; its beginning ends at the cursor.
  function draft() {
    const area = document.querySelector(".otdrg-draft:not([hidden])");
    return area ? { text: area.value, cursor: [...area.value.slice(0, area.selectionStart)].length } : null;
  }

  function editReport() {
    const area = document.querySelector(".otdrg-draft");
    if (!area) return;
    document.querySelector(".otdrg-report").hidden = area.hidden;
    area.hidden = !area.hidden;
    const button = document.querySelector("[data-otdrg=edit]");
    button.textContent = area.hidden ? "Edit" : "Undo the edits";
    if (area.hidden) {
      area.value = area.defaultValue;
      for (const offer of all(".otdrg-offer")) offer.remove();
      return button.focus();
    }
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  // Edits are read once there is a pause.
  let pause = 0;
  function readSoon() {
    clearTimeout(pause);
    pause = setTimeout(() => document.querySelector("#otdrg-read").click(), 400);
  }

  // Offered states become choices in the table, as if they had been made there.
  function give(button) {
    for (const [label, state] of Object.entries(JSON.parse(button.dataset.states))) {
      const row = all(".otdrg-labels tbody tr").find((row) => row.dataset.label === label);
      const radio = row && row.querySelector(`input[value="${state}"]`);
      if (radio) radio.click();
    }
  }

  function choices() {
    const states = {};
    for (const row of all(".otdrg-labels tbody tr")) {
      if (row.dataset.given === "true" || stateOf(row) !== row.dataset.state) states[row.dataset.label] = stateOf(row);
    }
    const views = all("select.otdrg-view").map((select) => select.value);
    const shown = document.querySelector("input[name=otdrg-evidence]:checked");
    return JSON.stringify({ states, views, evidence: shown ? shown.value : null, operating_point: point(), draft: draft() });
  }

  function markChanges() {
    for (const select of all("select.otdrg-view")) {
      select.classList.toggle("otdrg-changed", select.value !== select.dataset.used);
    }
    const report = document.querySelector(".otdrg-report[data-point]");
    const points = document.querySelector("#otdrg-point fieldset");
    if (points) points.classList.toggle("otdrg-changed", Boolean(report) && point() !== report.dataset.point);
    for (const row of all(".otdrg-labels tbody tr")) {
      const differs = stateOf(row) !== row.dataset.state || row.dataset.given === "withdrawn";
      row.classList.toggle("otdrg-changed", differs);
    }
  }

  function say(text) {
    const message = document.querySelector("#otdrg-refused p");
    message.textContent = text;
    message.hidden = !text;
  }

  // Other images are wanted: nobody waits for the report of these.
  function stopWriting() {
    const stop = document.querySelector("#otdrg-stop");
    if (stop && stop.offsetParent) stop.click();
  }

  function refuseLarge(event, files) {
    const large = [...files].find((file) => file.size > LIMIT);
    say(large ? `${large.name}: ${Math.ceil(large.size / 2 ** 20)} MB, images of up to 200 MB can be read.` : "");
    if (!large) return stopWriting();
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.target.value) event.target.value = "";
  }

  // The model is to predict the label again: until it has, no state is marked.
  function withdraw(row) {
    row.dataset.given = "withdrawn";
    for (const radio of row.querySelectorAll("input")) radio.checked = false;
    markChanges();
  }

  document.addEventListener("change", (event) => {
    const target = event.target;
    if (target.type === "file") refuseLarge(event, target.files);
    if (target.name === "otdrg-evidence") showEvidence([target.value]);
    if (target.closest(".otdrg-states")) {
      const row = target.closest("tr");
      if (row.dataset.given === "withdrawn") row.dataset.given = "true";
    }
    if (target.closest(".otdrg-states, .otdrg-view, #otdrg-point")) markChanges();
  }, true);

  document.addEventListener("input", (event) => {
    if (event.target.closest(".otdrg-draft")) readSoon();
  }, true);

  document.addEventListener("keydown", (event) => {
    if (!event.target.closest(".otdrg-draft")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) document.querySelector("#otdrg-resume").click();
  }, true);

  document.addEventListener("drop", (event) => {
    if (event.dataTransfer && event.target.closest("#otdrg-drop")) refuseLarge(event, event.dataTransfer.files);
  }, true);

  function download() {
    let record = document.querySelector(".otdrg-report").dataset.record;
    const edited = draft();
    if (edited) record = JSON.stringify({ ...JSON.parse(record), edited_text: edited.text }, null, 2);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([record], { type: "application/json" }));
    link.download = "report.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  document.addEventListener("click", (event) => {
    const on = (selector) => event.target.closest(selector);
    if (on(".otdrg-examples button")) stopWriting();
    if (on("#otdrg-rewrite")) document.querySelector("#otdrg-report").scrollIntoView({ block: "nearest" });
    if (on(".otdrg-given")) withdraw(on("tr"));
    if (on("[data-otdrg=download]")) download();
    if (on("[data-otdrg=edit]")) editReport();
    if (on(".otdrg-offer button")) give(on("button"));
  }, true);

  // A new table or new images have no pending changes.
  new MutationObserver(markChanges).observe(document.documentElement, { childList: true, subtree: true });

  return {
    choices,
    point,
    opacity: (percent) => document.documentElement.style.setProperty("--otdrg-opacity", percent / 100),
  };
})();
