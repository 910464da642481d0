"""The speaking floor: one small file a command, which parses, calls the library and prints."""
