"""What a browser and a phone share: how small nano is stored, the tables they follow, a folder that appears whole."""
