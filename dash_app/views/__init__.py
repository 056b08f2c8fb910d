"""The views: parts of the page that know nothing of each other."""
