"""The door to feedback for pages, REST and other nouns."""

from __future__ import annotations

from app.feedback import deleting, gold, items, projects, raters
from app.feedback.claims import claim as claim
from app.feedback.claims import enter as enter
from app.feedback.claims import rater_for as rater_for
from app.feedback.claims import release as release
from app.feedback.claims import renew as renew
from app.feedback.claims import shown as shown
from app.feedback.items import Added as Added
from app.feedback.projects import recount as recount
from app.feedback.raters import gate as gate
from app.feedback.undo import undo as undo
from app.feedback.votes import flag as flag
from app.feedback.votes import history as history
from app.feedback.votes import rate as rate
from app.feedback.votes import skip as skip

add_items = items.add
get_item = items.get
page_items = items.page
some_items = items.some
remove_item = items.remove
mark_gold = gold.mark
unmark_gold = gold.unmark
proposed_gold = gold.proposed
agreed_gold = gold.agreed
reopen_item = items.reopen
responses_of = items.responses
change_project = projects.change
create_project = projects.create
delete_project = deleting.delete
get_project = projects.get
list_projects = projects.listed
get_rater = raters.get
list_raters = raters.listed
pause_rater = raters.pause
remove_rater = raters.remove
resume_rater = raters.resume
