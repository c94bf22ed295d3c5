import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.MiniDFSCluster;
import org.apache.hadoop.hdfs.MiniDFSNNTopology;
import org.apache.hadoop.hdfs.server.namenode.FSNamesystem;

/**
 * A real HDFS on loopback, for tests: one NameNode or a pair, and DataNodes.
 *
 *     Cluster directory=DIR http=PORT[,PORT] [datanodes=N] [format=false] [KEY=VALUE of Hadoop's configuration]...
 *
 * Two ports make a pair of NameNodes, the first one active. Prints "ready" when it serves. Then each line on standard
 * input is a command that is answered by one line, "ok ..." or "error ...":
 *
 *     active N            NameNode N serves, the other one stands by
 *     stop-namenode N     start-namenode N
 *     stop-datanode N     the NameNode goes on believing in it
 *     start-datanode N
 *     safemode on|off
 *     read PATH           "ok LENGTH": by Hadoop's own client
 *     quit                also at the end of standard input
 */
public final class Cluster {
    private final Configuration configuration = new Configuration();
    private final List<Integer> ports = new ArrayList<>();
    private final Map<Integer, MiniDFSCluster.DataNodeProperties> stopped = new TreeMap<>();
    private int datanodes = 1;
    private boolean format = true;
    private MiniDFSCluster cluster;

    private void take(String argument) {
        int equals = argument.indexOf('=');
        String name = argument.substring(0, equals);
        String value = argument.substring(equals + 1);
        switch (name) {
            case "directory" -> configuration.set(MiniDFSCluster.HDFS_MINIDFS_BASEDIR, value);
            case "datanodes" -> datanodes = Integer.parseInt(value);
            case "format" -> format = Boolean.parseBoolean(value);
            case "http" -> {
                for (String port : value.split(",")) {
                    ports.add(Integer.parseInt(port));
                }
            }
            default -> configuration.set(name, value);
        }
    }

    private void start(String[] arguments) throws Exception {
        configuration.setInt("dfs.replication", 1);
        configuration.setInt("dfs.namenode.safemode.extension", 0);
        configuration.set("dfs.datanode.hostname", "127.0.0.1");
        configuration.setInt("dfs.ha.tail-edits.period", 1);
        configuration.setBoolean("dfs.namenode.delegation.token.always-use", true);
        for (String argument : arguments) {
            take(argument);
        }
        boolean pair = ports.size() == 2;
        MiniDFSCluster.Builder builder = new MiniDFSCluster.Builder(configuration)
            .numDataNodes(datanodes).format(format).manageNameDfsDirs(format || !pair).checkDataNodeHostConfig(false);
        if (pair) {
            MiniDFSNNTopology.NSConf names = new MiniDFSNNTopology.NSConf("pair");
            for (int i = 0; i < 2; i++) {
                names.addNN(new MiniDFSNNTopology.NNConf("nn" + (i + 1)).setHttpPort(ports.get(i)));
            }
            builder.nnTopology(new MiniDFSNNTopology().addNameservice(names));
        } else {
            builder.nameNodeHttpPort(ports.get(0));
        }
        cluster = builder.build();
        if (pair) {
            cluster.transitionToActive(0);
        }
        cluster.waitActive();
    }

    private String answer(String[] words) throws Exception {
        int number = words.length > 1 && words[1].matches("\\d+") ? Integer.parseInt(words[1]) : 0;
        switch (words[0]) {
            case "active" -> {
                if (cluster.getNameNode(1 - number) != null) {
                    cluster.transitionToStandby(1 - number);
                }
                cluster.transitionToActive(number);
            }
            case "stop-namenode" -> cluster.shutdownNameNode(number);
            case "start-namenode" -> cluster.restartNameNode(number, false);
            case "stop-datanode" -> {
                // The list of those that run closes up: the number is among all that there were.
                int before = (int) stopped.keySet().stream().filter(n -> n < number).count();
                stopped.put(number, cluster.stopDataNode(number - before));
            }
            case "start-datanode" -> cluster.restartDataNode(stopped.remove(number), true);
            case "safemode" -> {
                FSNamesystem names = cluster.getNamesystem(0);
                var action = words[1].equals("on") ? "SAFEMODE_ENTER" : "SAFEMODE_LEAVE";
                cluster.getNameNodeRpc(0).setSafeMode(
                    org.apache.hadoop.hdfs.protocol.HdfsConstants.SafeModeAction.valueOf(action), false);
            }
            case "read" -> {
                var path = new org.apache.hadoop.fs.Path(words[1]);
                return "ok " + cluster.getFileSystem(0).getFileStatus(path).getLen();
            }
            default -> {
                return "error no such command: " + words[0];
            }
        }
        return "ok";
    }

    public static void main(String[] arguments) throws Exception {
        Cluster self = new Cluster();
        self.start(arguments);
        System.out.println("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null && !line.equals("quit"); line = lines.readLine()) {
            String said;
            try {
                said = self.answer(line.split(" "));
            } catch (Exception e) {
                said = "error " + e.toString().replace('\n', ' ');
            }
            System.out.println(said);
        }
        // No orderly end: it would take seconds, and a test's cluster is thrown away.
        Runtime.getRuntime().halt(0);
    }
}
