"""The commands. Each has one small file: it parses the command line, calls the library and prints."""
