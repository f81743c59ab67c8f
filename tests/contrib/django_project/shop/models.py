"""What tasks write."""

from django.db import models


class Note(models.Model):
    key = models.CharField(max_length=100)
    text = models.CharField(max_length=100)
