"""Model cards: `README.md` in an artifact's directory, a view of its recipes and of the records that measured it."""

from compress_exp.report.card.lineage import Names as Names
from compress_exp.report.card.write import complete as complete
from compress_exp.report.card.write import publish_card as publish_card
