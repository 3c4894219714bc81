"""The test bed: real servers, real clients, and the gateway between them."""
