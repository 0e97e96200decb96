"""What the API calls, a module a noun: each adds the methods of one to what a daemon has."""
