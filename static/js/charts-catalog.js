/** Which metrics get a chart, under which title, in which order and size. */

/** @typedef {{name: string, title: string, group: string, isBig: boolean, isSmoothed: boolean}} Entry */

/** What the machine did has a tab of its own. */
const SYSTEM = "system/";
const AXES = ["elapsed_seconds", "tokens"];
/** What only the trainer's books need. */
const BOOKS = ["num_tokens", "epoch", "total_flos", "train_loss", "train_runtime"];
const HIDDEN = new Set([...AXES, ...BOOKS]);

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
  perplexity: "Perplexity",
  reward: "Reward",
  reward_std: "Spread of the reward",
  frac_reward_zero_std: "Groups without a difference",
  kl: "KL divergence",
  completion_length: "Answer length, tokens",
  clipped_ratio: "Answers cut at the limit",
  clip_ratio: "Updates held back",
  value_loss: "Loss of the value head",
  accuracy: "Accuracy",
  macro_f1: "Macro F1",
  mse: "Squared error",
  spearman: "Rank correlation",
  "rewards/margins": "Reward margin",
  "rewards/accuracies": "Reward accuracy",
  "rewards/chosen": "Reward of chosen",
  "rewards/rejected": "Reward of rejected",
  "logps/chosen": "Log-probability of chosen",
  "logps/rejected": "Log-probability of rejected",
  "logits/chosen": "Logits of chosen",
  "logits/rejected": "Logits of rejected",
  "system/cpu_percent": "Processor, trainer",
  "system/rss_bytes": "Memory, trainer",
  "system/host_cpu_percent": "Processor, whole machine",
  "system/host_memory_bytes": "Memory, whole machine",
  "system/gpu_percent": "GPU",
  "system/gpu_memory_bytes": "GPU memory",
  "system/gpu_power_watts": "GPU power",
  "system/gpu_celsius": "GPU temperature",
  "system/disk_free_bytes": "Free disk",
});

const FIRST = [
  "loss",
  "eval_loss",
  "exact_match",
  "reward",
  "eval_reward",
  "kl",
  "eval_kl",
  "eval_perplexity",
  "eval_accuracy",
  "eval_macro_f1",
  "completion_length",
  "frac_reward_zero_std",
  "rewards/margins",
  "rewards/accuracies",
  "grad_norm",
  "learning_rate",
  "tokens_per_second",
  "memory_bytes",
  "system/gpu_percent",
  "system/gpu_memory_bytes",
  "system/cpu_percent",
  "system/rss_bytes",
  "system/host_cpu_percent",
  "system/host_memory_bytes",
  "system/disk_free_bytes",
];
const BIG = new Set(["loss", "eval_loss"]);
const EXACT = new Set(["learning_rate", "exact_match", "memory_bytes"]);

/**
 * What to load for the charts of a page.
 * @param {boolean} isSystem
 */
export function wanted(isSystem) {
  return isSystem ? [`${SYSTEM}*`, ...AXES].join() : [`${SYSTEM}*`, ...BOOKS].map((name) => `-${name}`).join();
}

/** @param {string} name */
function groupOf(name) {
  if (FIRST.includes(name) || name.startsWith(SYSTEM)) return "";
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
 * @param {boolean} [isSystem] - Those of the machine instead of those of the training.
 * @returns {Entry[]}
 */
export function catalog(names, isSystem = false) {
  const shown = [...new Set(names)].filter((name) => !HIDDEN.has(name) && name.startsWith(SYSTEM) === isSystem);
  const rank = (/** @type {string} */ name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  return shown
    .map((name) => ({ name, title: titleOf(name), group: groupOf(name), isBig: BIG.has(name), isSmoothed: !EXACT.has(name) && !isSystem }))
    .sort((a, b) => a.group.localeCompare(b.group) || rank(a.name) - rank(b.name) || a.name.localeCompare(b.name));
}
