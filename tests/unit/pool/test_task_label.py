"""Tasks as the log names them."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.model import Call, Options, StoredCall
from taskd.pool.task_label import label_of
from tests.unit.tasks import make_task

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class LabelTests(SynchronousTestCase):
    pass
