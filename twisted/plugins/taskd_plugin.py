"""Makes ``twistd taskd`` known to Twisted; the assembly is in `taskd.daemon.service`."""

from twisted.application.service import ServiceMaker

taskd = ServiceMaker("taskd", "taskd.daemon.service", "A pool of processes for heavy work.", "taskd")
