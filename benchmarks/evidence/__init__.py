"""The long checks, part by part; each writes a page of docs/evidence/ and fails by itself."""
