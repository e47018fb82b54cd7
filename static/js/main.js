/** Entry of the scripts: starts every behaviour once. Pages are loaded whole, so nothing has to be taken down. */
import { startAgo } from "./behaviors/ago.js";
import { startAutosubmit } from "./behaviors/autosubmit.js";
import { startConfirm } from "./behaviors/confirm.js";
import { startConnection } from "./behaviors/connection.js";
import { startCopy } from "./behaviors/copy.js";
import { startDialogs } from "./behaviors/dialogs.js";
import { startFields } from "./behaviors/fields.js";
import { startKeys } from "./behaviors/keys.js";
import { startLogs } from "./behaviors/logs.js";
import { startMenu } from "./behaviors/menu.js";
import { startPalette } from "./behaviors/palette.js";
import { startQueue } from "./behaviors/queue.js";
import { startSelection } from "./behaviors/selection.js";
import { startTheme } from "./behaviors/theme.js";
import { startToasts } from "./behaviors/toasts.js";
import { startUntilOver } from "./behaviors/until-over.js";

startTheme();
startMenu();
startDialogs();
startPalette();
startKeys();
startConfirm();
startToasts();
startConnection();
startAgo();
startCopy();
startSelection();
startAutosubmit();
startFields();
startQueue();
startUntilOver();
startLogs();

const charts = document.getElementById("charts");
if (charts) import("./charts.js").then(({ startCharts }) => startCharts(charts));
