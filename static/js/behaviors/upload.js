/**
 * Sends the form `[data-upload]` with a progress bar and a way to cancel, takes files dropped anywhere on the page, and has the server look
 * at the beginning of what was chosen or pasted. Without it the form is sent as usual.
 */
import { one } from "../dom.js";

const TYPING_MS = 300;

/** @param {HTMLFormElement} form */
function start(form) {
  const bar = /** @type {HTMLElement} */ (one("[data-upload-progress]", form));
  const meter = /** @type {HTMLProgressElement} */ (one("progress", bar));
  const words = /** @type {HTMLOutputElement} */ (one("output", bar));
  const alert = /** @type {HTMLElement} */ (one("[data-upload-error]", form));
  const button = /** @type {HTMLButtonElement | null} */ (one("button.primary", form));
  const file = /** @type {HTMLInputElement} */ (one("input[type=file]", form));
  const text = /** @type {HTMLTextAreaElement | null} */ (one("textarea[name=text]", form));
  const looked = /** @type {HTMLFormElement | null} */ (one("#looked"));
  const atOnce = "atOnce" in form.dataset;
  /** @type {XMLHttpRequest | null} */
  let request = null;
  let typing = 0;

  /** @param {string} said */
  function stop(said) {
    request = null;
    bar.hidden = true;
    if (button) button.disabled = false;
    /** @type {HTMLElement} */ (one("b", alert)).textContent = said;
    alert.hidden = false;
    alert.scrollIntoView({ block: "nearest" });
  }

  /** The form's fields, with the mapping in the form that REST takes. */
  function fields() {
    const data = new FormData(form);
    /** @type {Record<string, FormDataEntryValue>} */
    const mapping = {};
    for (const [name, value] of [...data]) {
      if (!name.startsWith("map.")) continue;
      if (value) mapping[name.slice(4)] = value;
      data.delete(name);
    }
    if (Object.keys(mapping).length) data.set("mapping", JSON.stringify(mapping));
    return data;
  }

  function send() {
    if (request) return;
    const sending = (request = new XMLHttpRequest());
    alert.hidden = true;
    form.hidden = false;
    bar.hidden = false;
    if (button) button.disabled = true;
    meter.value = 0;
    words.textContent = "";
    sending.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      meter.value = event.loaded / event.total;
      words.textContent = event.loaded === event.total ? "Checking…" : `${Math.floor((100 * event.loaded) / event.total)} %`;
    });
    sending.addEventListener("load", () => {
      const answer = sending.response;
      if (sending.status === 201) location.assign(`/datasets/${answer.id}`);
      else stop(answer?.error?.message ?? "The upload was refused. Load the page again and repeat it.");
    });
    sending.addEventListener("error", () => stop("The connection broke off. Nothing was kept; try again."));
    sending.addEventListener("abort", () => stop("Cancelled. Nothing was kept."));
    sending.open("POST", form.dataset.upload ?? form.action);
    sending.responseType = "json";
    sending.send(fields());
  }

  /**
   * Have the server say what the beginning would be read as.
   * @param {string} head
   * @param {string} name
   * @param {boolean} cut
   */
  function look(head, name, cut) {
    if (!looked) return;
    looked.elements.namedItem("head").value = head;
    looked.elements.namedItem("file").value = name;
    looked.elements.namedItem("cut").value = cut ? "1" : "";
    looked.dispatchEvent(new Event("look"));
  }

  async function chosen() {
    const picked = file.files?.[0];
    const name = one("[data-upload-name]", form);
    if (name) name.textContent = picked?.name ?? "";
    if (!picked) return look("", "", false);
    const limit = Number(looked?.dataset.headBytes ?? 0);
    if (text) text.value = "";
    look(picked.name.toLowerCase().endsWith(".parquet") ? "" : await picked.slice(0, limit).text(), picked.name, picked.size > limit);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  file.addEventListener("change", chosen);
  text?.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const limit = Number(looked?.dataset.headBytes ?? 0);
      if (text.value && file.value) file.value = "";
      look(text.value.slice(0, limit), "", text.value.length > limit);
    }, TYPING_MS);
  });
  one("[data-upload-cancel]", form)?.addEventListener("click", () => request?.abort());

  const carriesFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const mark = (/** @type {number} */ change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dropping", depth > 0);
  };
  document.addEventListener("dragenter", (event) => carriesFiles(event) && mark(1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && mark(-1));
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    if (request || !event.dataTransfer?.files.length) return;
    file.files = event.dataTransfer.files;
    chosen();
    if (atOnce) send();
  });
}

for (const form of document.querySelectorAll("form[data-upload]")) start(/** @type {HTMLFormElement} */ (form));
