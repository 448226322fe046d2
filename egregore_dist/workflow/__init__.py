"""The language that workflows are written in; nothing here knows Celery or the ledger."""

from egregore_dist.workflow.context import Context
from egregore_dist.workflow.decision import decision
from egregore_dist.workflow.limits import Limit
from egregore_dist.workflow.nodes import Node, node
from egregore_dist.workflow.parallel import parallel
from egregore_dist.workflow.sequence import Sequence
from egregore_dist.workflow.step import Step

__all__ = ["Context", "Limit", "Node", "Sequence", "Step", "decision", "node", "parallel"]
