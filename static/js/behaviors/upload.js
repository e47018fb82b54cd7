// Sends the form `[data-upload]` with a progress bar, takes dropped files, and shows a refusal in place. Without it the form is sent as usual.

function start(form) {
  const bar = form.querySelector("[data-upload-progress]");
  const meter = bar.querySelector("progress");
  const words = bar.querySelector("output");
  const alert = form.querySelector("[data-upload-error]");
  const button = form.querySelector("button.primary");
  const file = form.querySelector("input[type=file]");
  const drop = form.querySelector("[data-drop]");

  function refuse(text) {
    bar.hidden = true;
    button.disabled = false;
    alert.querySelector("b").textContent = text;
    alert.hidden = false;
  }

  function send() {
    const request = new XMLHttpRequest();
    alert.hidden = true;
    bar.hidden = false;
    button.disabled = true;
    meter.value = 0;
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      meter.value = event.loaded / event.total;
      words.textContent = `${Math.floor((100 * event.loaded) / event.total)} %`;
    });
    request.addEventListener("load", () => {
      const answer = request.response;
      if (request.status === 201) location.assign(`/datasets/${answer.id}`);
      else refuse(answer?.error?.message ?? "The upload was refused. Load the page again and repeat it.");
    });
    request.addEventListener("error", () => refuse("The connection broke off. Nothing was kept; try again."));
    request.open("POST", form.dataset.upload);
    request.responseType = "json";
    request.send(new FormData(form));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });

  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) file.files = event.dataTransfer.files;
  });
}

for (const form of document.querySelectorAll("form[data-upload]")) start(form);
