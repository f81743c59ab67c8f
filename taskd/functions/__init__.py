"""What an app registers, and what taskd knows of it: functions, parameters, progress, stops."""
