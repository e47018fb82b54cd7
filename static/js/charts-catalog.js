/** Which metrics get a chart, under which title, in which order and size. */

/** @typedef {{name: string, title: string, group: string, isBig: boolean, isSmoothed: boolean}} Entry */

/** Axes, and what only the trainer's books need. */
const HIDDEN = new Set(["elapsed_seconds", "tokens", "num_tokens", "epoch", "total_flos", "train_loss", "train_runtime"]);

const TITLES = /** @type {Record<string, string>} */ ({
  loss: "Training loss",
  eval_loss: "Evaluation loss",
  exact_match: "Exact match",
  grad_norm: "Gradient norm",
  learning_rate: "Learning rate",
  tokens_per_second: "Tokens per second",
  memory_bytes: "Memory",
  mean_token_accuracy: "Token accuracy",
  entropy: "Entropy",
  "rewards/margins": "Reward margin",
  "rewards/accuracies": "Reward accuracy",
  "rewards/chosen": "Reward of chosen",
  "rewards/rejected": "Reward of rejected",
  "logps/chosen": "Log-probability of chosen",
  "logps/rejected": "Log-probability of rejected",
  "logits/chosen": "Logits of chosen",
  "logits/rejected": "Logits of rejected",
});

const FIRST = [
  "loss",
  "eval_loss",
  "exact_match",
  "rewards/margins",
  "rewards/accuracies",
  "grad_norm",
  "learning_rate",
  "tokens_per_second",
  "memory_bytes",
];
const BIG = new Set(["loss", "eval_loss"]);
const EXACT = new Set(["learning_rate", "exact_match", "memory_bytes"]);

/** @param {string} name */
function groupOf(name) {
  if (FIRST.includes(name)) return "";
  if (name.startsWith("eval_")) return "Evaluation";
  return name.includes("/") ? name.slice(0, name.indexOf("/")).replace(/^./, (letter) => letter.toUpperCase()) : "";
}

/** @param {string} name */
function titleOf(name) {
  if (TITLES[name]) return TITLES[name];
  const inner = name.startsWith("eval_") ? TITLES[name.slice(5)] : undefined;
  const words = inner ?? name.replace(/^eval_/, "").replaceAll(/[/_]/g, " ");
  return (name.startsWith("eval_") ? `Evaluation: ${words.toLowerCase()}` : words).replace(/^./, (letter) => letter.toUpperCase());
}

/**
 * The charts for some metrics, in the order they are shown.
 * @param {Iterable<string>} names
 * @returns {Entry[]}
 */
export function catalog(names) {
  const shown = [...new Set(names)].filter((name) => !HIDDEN.has(name));
  const rank = (/** @type {string} */ name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  return shown
    .map((name) => ({ name, title: titleOf(name), group: groupOf(name), isBig: BIG.has(name), isSmoothed: !EXACT.has(name) }))
    .sort((a, b) => a.group.localeCompare(b.group) || rank(a.name) - rank(b.name) || a.name.localeCompare(b.name));
}
