"""Makes ``twistd taskd`` known to Twisted; the assembly is in `taskd.service`."""

from twisted.application.service import ServiceMaker

taskd = ServiceMaker("taskd", "taskd.service", "A pool of processes for heavy work.", "taskd")
