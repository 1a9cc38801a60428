package org.example.nano

import android.app.Activity
import android.graphics.BitmapFactory
import android.os.Bundle
import android.util.Log
import android.widget.TextView
import java.io.File
import kotlin.concurrent.thread

/** Describes photo.jpg, which lies beside the folder `model` among the app's own files. */
class MainActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val view = TextView(this).also { setContentView(it) }
        thread {
            val folder = getExternalFilesDir(null)
            val text = try {
                val photo = BitmapFactory.decodeFile(File(folder, "photo.jpg").path)
                    ?: error("there is no picture in ${File(folder, "photo.jpg")}")
                Nano(File(folder, "model")).use { it.describe(photo) }
            } catch (problem: Exception) {
                problem.toString()
            }
            Log.i("nano", text)
            runOnUiThread { view.text = text }
        }
    }
}
