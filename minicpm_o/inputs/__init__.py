"""What the user gives (files, bytes, arrays, messages) to what the model takes. Import the modules by name."""
